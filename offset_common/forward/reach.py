"""The connecting side: keeps a tunnel to one other machine, and restores it after an interruption.

    _dial (a thread) --> Link: HELLO, then WELCOME --> the session continues --> the tunnel ends --> _dial ...

Open local connections continue in the next tunnel. A new one that finds no tunnel waits outside the session,
and is not read. One that gets no tunnel in time is reset.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Callable, NamedTuple, Optional

from offset_common.client import ConnectRefused, Dialing, NotAccepted, dial
from offset_common.client.backoff import Backoff
from offset_common.constants import PENDING_CONNECT_TIMEOUT
from offset_common.errors import DecodeError, OffsetError, PeerError, SilenceError
from offset_common.forward.code import Code
from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop, Timer
from offset_common.forward.local import Ended, LocalConnection, reason_of
from offset_common.forward.messages import (
    SESSION_SIZE,
    Hello,
    Kind,
    Welcome,
    kind_of,
    read_refused,
    read_welcome,
)
from offset_common.forward.session import Session
from offset_common.forward.tunnel import ForwardTunnel
from offset_common.identity import Identity, encode_key
from offset_common.wire.messages import InitConnection, InitRole

MAX_DELAY = 10.0  # seconds between attempts: a user is waiting


class ReachOptions(NamedTuple):
    """The user's options.

    Args:
        name: this machine's name.
        peer: the name to show for the other machine.
        wait: seconds that a new local connection waits for a tunnel.
        keep: seconds that an open local connection waits for one.
    """

    name: str
    peer: str
    wait: float
    keep: float


class Reach:
    """The connecting side. `start` returns at once; all else happens in the event loop and in threads.

    Args:
        loop: the event loop.
        code: the other machine's code.
        identity: this machine's identity.
        options: the user's options.
        display: shows what happens.
        welcomed: called with each WELCOME.
        refused: called with the reason if the other side refuses this machine; there are no more attempts.
    """

    def __init__(
        self,
        loop: EventLoop,
        code: Code,
        identity: Identity,
        options: ReachOptions,
        display: Display,
        welcomed: Callable[[Welcome], object],
        refused: Callable[[str], object],
    ) -> None:
        self._loop = loop
        self._code = code
        self._identity = identity
        self._options = options
        self._display = display
        self._welcomed = welcomed
        self._refused = refused
        self._backoff = Backoff()
        self._failure = ""  # why the last attempt failed
        self._waiting: dict[LocalConnection, str] = {}  # for a tunnel, with their services
        self._session = Session(loop, None)
        self._session_number = os.urandom(SESSION_SIZE)
        self._joined = False  # whether the other side has ever known this session
        self._link: Optional[Link] = None
        self._joined_at = 0.0  # the time of the last WELCOME
        self._expiry: Optional[Timer] = None
        self._stopped = False

    @property
    def connected(self) -> bool:
        """Whether there is a tunnel, and the other side has let this machine in."""
        return self._session.attached

    @property
    def failure(self) -> str:
        """Why there is no tunnel."""
        return self._failure or "the other side did not answer in time"

    def start(self) -> None:
        """Start connecting."""
        self._dial()

    def stop(self) -> None:
        """Cut off everything, and inform the other side."""
        self._stopped = True
        for local in list(self._waiting):
            self._waiting.pop(local)
            local.fail("stforward was stopped")
        self._session.reset_all("stforward was stopped there")
        if self._link is not None:
            self._link.tunnel.finish()

    def open(self, service: str, ended: Ended) -> LocalConnection:
        """Return a connection for a new stream to a service."""
        local = LocalConnection(self._loop, ended)
        if self.connected:
            self._session.open(service, local)
        else:
            self._waiting[local] = service
            self._loop.call_later(self._options.wait, partial(self._check_wait, local))
        return local

    def when_delivered(self, delivered: Callable[[str], object]) -> None:
        """Call a function once the other side has received everything; see Session.when_delivered."""
        self._session.when_delivered(delivered)

    def _check_wait(self, local: LocalConnection) -> None:
        if local in self._waiting:
            del self._waiting[local]
            local.fail(self.failure)

    def _open_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for local, service in waiting.items():
            self._session.open(service, local)

    # Connecting.

    def _dial(self) -> None:
        if not self._stopped:
            self._display.state(f"connecting to the relay {self._code.relay.address}")
            try:
                self._loop.in_thread("connect", self._dial_in_thread)
            except OSError as error:
                self._failed(error)

    def _dial_in_thread(self) -> Callable[[], object]:
        try:
            dialing = dial(self._code.relay, self._identity)
        except (OSError, OffsetError) as error:
            failure = error
            return lambda: self._failed(failure)
        return lambda: self._connect(dialing)

    def _connect(self, dialing: Dialing) -> None:
        if self._stopped:
            dialing.sock.close()
            return
        self._display.state(f"waiting for {self._options.peer}")
        self._link = Link(self._loop, self, dialing, self._code.public_key)

    def _failed(self, error: Exception) -> None:
        """Try again after a delay."""
        if self._stopped:
            return
        reason = reason_of(error)
        if isinstance(error, (ConnectRefused, NotAccepted)):
            key = encode_key(self._identity.public_key)
            reason = f"{self._options.peer} is not there, or does not let this key in: {key}"
        if reason != self._failure:
            self._display.event("not_connected", f"not connected: {reason}; trying again", reason=reason)
        self._failure = reason
        self._loop.call_later(min(MAX_DELAY, self._backoff.next()), self._dial)

    # Called by the link.

    def hello(self) -> Hello:
        """Return the first message of a tunnel."""
        return Hello(self._session_number, self._session.received, self._options.name)

    def welcome(self, link: Link, welcome: Welcome) -> Session:
        """Continue through a tunnel, or begin anew if the other side has forgotten the session."""
        if self._joined and not welcome.resumed:
            # The other side has given the number to the session that begins now.
            self._end_session(f"stforward was restarted on {self._options.peer}", self._session_number)
        self._joined = True
        self._session.attach(link.tunnel, welcome.received)
        if self._expiry is not None:
            self._expiry.cancel()
        self._joined_at = time.monotonic()
        self._failure = ""
        self._open_waiting()
        self._display.state(f"connected to {self._options.peer}")
        self._welcomed(welcome)
        return self._session

    def await_approval(self) -> None:
        """Show that the user there is being asked."""
        key = encode_key(self._identity.public_key)
        self._display.state(f"waiting until {self._options.peer} lets this key in: {key}")

    def refuse(self, reason: str) -> None:
        """Stop: the other side does not let this machine in."""
        self._stopped = True
        self._refused(f"{self._options.peer} does not let this machine in: {reason}")

    def ended(self, link: Link, error: Exception, joined: bool) -> None:
        """Connect again after the end of a tunnel; end the session if the other side broke the rules."""
        if link is not self._link:
            return
        self._link = None
        self._session.detach()
        if joined:
            self._backoff.listener_ended(time.monotonic() - self._joined_at)
            if isinstance(error, PeerError) and not isinstance(error, SilenceError):
                self._end_session(str(error))
            expire = partial(self._end_session, f"{self._options.peer} did not return in time")
            self._expiry = self._loop.call_later(self._options.keep, expire)
        self._failed(error)

    def _end_session(self, reason: str, next_number: Optional[bytes] = None) -> None:
        session, self._session = self._session, Session(self._loop, None)
        self._session_number = next_number or os.urandom(SESSION_SIZE)
        self._joined = False
        session.end(reason)


class Link:
    """One tunnel of the connecting side.

    Args:
        loop: the event loop.
        reach: the connecting side.
        dialing: a connection to the relay.
        key: 32 bytes, the other machine's key.
    """

    def __init__(self, loop: EventLoop, reach: Reach, dialing: Dialing, key: bytes) -> None:
        self._reach = reach
        self._session: Optional[Session] = None
        init = InitConnection(InitRole.CONNECT, key)
        self.tunnel = ForwardTunnel(loop, dialing, init, PENDING_CONNECT_TIMEOUT + 3, self)

    def on_ready(self) -> None:
        """Send the HELLO."""
        self.tunnel.send(self._reach.hello().encode())

    def on_message(self, message: bytes) -> None:
        """Handle the answer to the HELLO, or pass a message to the session."""
        if self._session is not None:
            self._session.receive(message)
            return
        kind = kind_of(message)
        if kind is Kind.WELCOME:
            self._session = self._reach.welcome(self, read_welcome(message))
        elif kind is Kind.WAITING:
            self._reach.await_approval()
        elif kind is Kind.REFUSED:
            self._reach.refuse(read_refused(message))
        else:
            raise DecodeError(f"the other side answered the HELLO with {kind.name}")

    def on_drained(self) -> None:
        """Let the session continue."""
        if self._session is not None:
            self._session.continue_sending()

    def on_end(self, error: Exception) -> None:
        """Report the end."""
        self._reach.ended(self, error, self._session is not None)
