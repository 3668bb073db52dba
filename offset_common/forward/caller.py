"""One tunnel that the sharing side has accepted: it waits for the HELLO, then belongs to a session."""

from __future__ import annotations

from typing import Optional, Protocol

from offset_common.client import Dialing
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.errors import DecodeError, PeerError, SilenceError
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.messages import Hello, encode_refused, encode_waiting, read_hello
from offset_common.forward.session import Session
from offset_common.forward.tunnel import ForwardTunnel
from offset_common.wire.messages import InitConnection, InitRole

HELLO_TIMEOUT = 10.0  # seconds from the proven key to the HELLO
REFUSAL_TIME = 2.0  # seconds for a refusal to be delivered


class Host(Protocol):
    """The sharing side, as far as a caller uses it."""

    def ask(self, caller: Caller, hello: Hello) -> None:
        """Decide whether the caller may connect, and call `Caller.answer`."""

    def join(self, caller: Caller, hello: Hello) -> Session:
        """Give the caller its session."""

    def leave(self, caller: Caller, session: Optional[Session], error: Optional[Exception]) -> None:
        """Handle the end of the tunnel; `error` is None if this side closed it."""


class Caller:
    """One accepted tunnel.

    Args:
        loop: the event loop.
        host: the sharing side.
        dialing: a connection to the relay.
        key: 32 bytes, the caller's key, which it proves through the tunnel.
        known: whether it may connect without a question.
    """

    def __init__(self, loop: EventLoop, host: Host, dialing: Dialing, key: bytes, known: bool) -> None:
        self.key = key
        self.known = known
        self._loop = loop
        self._host = host
        self._greeted = False
        self._session: Optional[Session] = None
        init = InitConnection(InitRole.ACCEPT, key)
        self.tunnel = ForwardTunnel(loop, dialing, init, HANDSHAKE_TIMEOUT, self)

    def on_ready(self) -> None:
        """Give the other side some time for its HELLO."""
        self._loop.call_later(HELLO_TIMEOUT, self._check_hello)

    def on_message(self, message: bytes) -> None:
        """Handle the HELLO, or pass a message to the session."""
        if self._session is not None:
            self._session.receive(message)
            return
        if self._greeted:
            raise DecodeError("the other side sent a message before it was let in")
        hello = read_hello(message)
        self._greeted = True
        if self.known:
            self._session = self._host.join(self, hello)
        else:
            self.tunnel.send(encode_waiting())
            self._host.ask(self, hello)

    def on_drained(self) -> None:
        """Let the session continue."""
        if self._session is not None:
            self._session.continue_sending()

    def on_end(self, error: Exception) -> None:
        """Leave the session."""
        self._leave(error)

    def answer(self, hello: Hello, refusal: str) -> None:
        """Let the caller in, or refuse it for a reason."""
        if self.tunnel.closed:
            return
        if refusal:
            self.tunnel.send(encode_refused(refusal))
            self.finish()
            return
        try:
            self._session = self._host.join(self, hello)
        except PeerError as error:
            self.tunnel.close()
            self._leave(error)

    def finish(self) -> None:
        """Deliver what is queued, then close."""
        self.tunnel.finish()
        self._loop.call_later(REFUSAL_TIME, self.close)

    def replace(self) -> None:
        """Close at once: the session has a newer tunnel, or has ended."""
        self._session = None
        self.close()

    def close(self) -> None:
        """Close at once."""
        if not self.tunnel.closed:
            self.tunnel.close()
            self._leave(None)

    def _leave(self, error: Optional[Exception]) -> None:
        session, self._session = self._session, None
        self._host.leave(self, session, error)

    def _check_hello(self) -> None:
        if not self._greeted and not self.tunnel.closed:
            self.tunnel.close()
            self._leave(SilenceError("it sent no HELLO in time"))
