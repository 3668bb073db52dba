"""The operator's policy. The one here allows everything; the one in offset_common/policy has rules.

A relay makes its policy in its constructor and calls it at a few points. A policy acts on the relay through
`PolicyRelay`, and only in the thread of the event loop.
"""

from __future__ import annotations

from typing import Callable, Optional, Protocol

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.wire.messages import InitRole


class Meter(Protocol):
    """Decides how fast one end of a tunnel is read, and counts what it sends (offset_common/policy)."""

    def allow(self, most: int, least: int = 1) -> int:
        """Return how many bytes may be read now, up to `most`; 0 if fewer than `least` are allowed."""

    def count(self, size: int) -> None:
        """Count bytes that were read."""

    def end(self) -> None:
        """Release what was allowed but not read; nothing more will be read."""


MakeMeter = Callable[[SocketConnection, bytes], Optional[Meter]]
"""Makes the meter of a tunnel end, given the connection that is read and the key at the other end."""


class PolicyRelay(Protocol):
    """The parts of a relay that a policy may use."""

    loop: EventLoop
    workers: int

    def connections(self) -> list[SocketConnection]:
        """Return all connections."""

    def change_limits(self, limits: Limits) -> None:
        """Change the limits that need no restart."""


class Policy:
    """Allows everything, and has nothing to reload."""

    @property
    def meters(self) -> bool:
        """Whether `meter` may return a meter, in this process or in its workers."""
        return False

    @property
    def worker_program(self) -> list[str]:
        """The module that each worker process runs, and arguments for it."""
        return ["offset_common.relay.workers.process"]

    def close(self) -> None:
        """Stop: the relay has closed all connections."""

    def reload(self, done: Callable[[], None]) -> None:
        """Read all files again, then call `done`."""
        log_event("nothing to reload")
        done()

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the operator gave a key, or None."""
        return None

    def refuse_address(self, host: str) -> Optional[CloseReason]:
        """Return why an address may not connect, or None."""
        return None

    def refuse_peer(self, connection: SocketConnection) -> Optional[CloseReason]:
        """Return why a connection is closed as soon as its key is proven, or None."""
        return None

    def refuse_role(
        self, connection: SocketConnection, role: InitRole, other: bytes
    ) -> Optional[CloseReason]:
        """Return why a connection may not have a role, or None.

        Args:
            connection: its key is proven.
            role: what it asks for.
            other: the key at the other end; empty for a listener.
        """
        return None

    def meter(self, source: SocketConnection, sink_key: bytes) -> Optional[Meter]:
        """Return the meter of what `source` sends to the peer with `sink_key`, or None for no limit."""
        return None

    def forget(self, connection: SocketConnection) -> None:
        """Forget a connection that ended."""
