"""A session of the sharing side, which gets a new tunnel whenever the other side reconnects."""

from __future__ import annotations

from typing import Callable, Optional, Union

from offset_common.forward.caller import Caller
from offset_common.forward.event_loop import EventLoop, Timer
from offset_common.forward.local import LocalConnection
from offset_common.forward.messages import Welcome
from offset_common.forward.session import Session


class SharedSession(Session):
    """A session of the sharing side, and its current tunnel.

    Args:
        loop: the event loop.
        accept: connects a stream to a service.
        peer: the name to show for the other machine.
    """

    def __init__(
        self, loop: EventLoop, accept: Callable[[SharedSession, str], Union[LocalConnection, str]], peer: str
    ) -> None:
        super().__init__(loop, lambda service: accept(self, service))
        self.peer = peer
        self._caller: Optional[Caller] = None
        self._expiry: Optional[Timer] = None

    def join(self, caller: Caller, welcome: Welcome, peer_received: int) -> None:
        """Continue through the tunnel of a caller; close the previous tunnel.

        Raises:
            DecodeError: the other side cannot have received this number of messages.
        """
        self.leave()
        self._caller = caller
        caller.tunnel.send(welcome.encode())
        self.attach(caller.tunnel, peer_received)

    def leave(self) -> None:
        """Give up the tunnel, if there is one."""
        self.detach()
        if self._expiry is not None:
            self._expiry.cancel()
        if self._caller is not None:
            caller, self._caller = self._caller, None
            caller.replace()

    def uses(self, caller: Caller) -> bool:
        """Return whether the caller has the current tunnel."""
        return self._caller is caller

    def expire(self, timer: Timer) -> None:
        """Keep the timer that ends this session, to cancel it if a tunnel arrives first."""
        self._expiry = timer
