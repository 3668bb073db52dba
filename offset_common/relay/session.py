"""The base of all sessions: a connection, a state of lifecycle.py, and handlers of events."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.lifecycle import DEADLINES, State


class Closable(Protocol):
    """The part of a connection that every session needs."""

    def close(self, reason: CloseReason) -> None:
        """End the connection now."""


C = TypeVar("C", bound=Closable)


class Session(Generic[C]):
    """The behaviour of a connection in one state of its life, and the data that only this state needs.

    Args:
        connection: the connection that this session belongs to.
    """

    __slots__ = ("connection",)

    state: State
    settled = True  # the connection has a role; until then, it is scheduled as busy
    may_poll_coarsely = False  # the peer's next message may be noticed up to a second late

    def __init__(self, connection: C) -> None:
        self.connection = connection

    def on_readable(self) -> None:
        """Read from the connection and handle the input."""
        raise NotImplementedError

    def on_deadline(self) -> None:
        """Close the connection: the state's deadline has expired."""
        self.connection.close(DEADLINES[self.state].reason)

    def finish(self, reason: CloseReason) -> None:
        """Close the connection now. A session with something left to do overrides this."""
        self.connection.close(reason)

    def on_output_sent(self) -> None:
        """Handle the output buffer becoming empty."""

    def on_closed(self, reason: CloseReason) -> None:
        """Release what the session holds elsewhere; the connection has ended."""


class Ended(Session[C]):
    """The session of a connection before its start and after its end, shared by all connections."""

    __slots__ = ()

    state = State.CLOSED

    def __init__(self) -> None:
        """Create a session without a connection."""
