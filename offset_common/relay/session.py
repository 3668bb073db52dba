"""The base of all sessions: a connection, a state of lifecycle.py, and handlers of events."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.lifecycle import State, deadline_of


class Closable(Protocol):
    """The part of a connection that every session needs."""

    def close(self, reason: CloseReason) -> None:
        """End the connection now."""


C = TypeVar("C", bound=Closable)


class Session(Generic[C]):
    """The present role of a connection; each role has its own class, with the role's state.

    Args:
        connection: the connection that has this session.
    """

    __slots__ = ("connection",)

    state: State
    keeps_alive = True  # keepalives are sent, and a silent peer is closed
    settled = True  # the connection has a role; until then it counts as busy in the fair queue
    may_poll_coarsely = False  # it does not matter if the peer's next message is noticed a second later

    def __init__(self, connection: C) -> None:
        self.connection = connection

    def on_readable(self) -> None:
        """Read from the connection and handle the input."""
        raise NotImplementedError

    def on_deadline(self) -> None:
        """Handle the end of the state's deadline."""
        deadline = deadline_of(self.state)
        assert deadline is not None
        self.connection.close(deadline.reason)

    def finish(self, reason: CloseReason) -> None:
        """End gracefully: queued output may still be sent."""
        self.connection.close(reason)

    def on_output_sent(self) -> None:
        """Handle that the socket took all output."""

    def on_closed(self, reason: CloseReason) -> None:
        """Release what the session holds elsewhere: the connection ended."""


class Ended(Session[C]):
    """The session of a connection before its start and after its end, shared by all connections."""

    __slots__ = ()

    state = State.CLOSED
    keeps_alive = False

    def __init__(self) -> None:
        """Belong to no connection."""
