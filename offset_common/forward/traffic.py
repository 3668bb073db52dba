"""Number the connections of this process; report when they begin and end, and how much they forward."""

from __future__ import annotations

from offset_common.forward.display import Display, size
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.local import LocalConnection

INTERVAL = 1.0  # seconds between rates


class Traffic:
    """The local connections of this process.

    Args:
        loop: the event loop.
        display: shows them.
    """

    def __init__(self, loop: EventLoop, display: Display) -> None:
        self._loop = loop
        self._display = display
        self._numbers: dict[LocalConnection, int] = {}
        self._count = 0
        self._ended = (0, 0)  # bytes of connections that have ended: sent, received
        self._before = (0, 0)
        loop.call_later(INTERVAL, self._tick)

    @property
    def open(self) -> int:
        """The number of connections."""
        return len(self._numbers)

    def begin(self, local: LocalConnection, what: str, **fields: object) -> None:
        """Report a new connection.

        Args:
            local: the connection.
            what: its destination or its origin, for people.
            fields: the same, for programs.
        """
        self._count += 1
        self._numbers[local] = self._count
        text = f"connection {self._count}: {what}"
        self._display.event("connection_opened", text, connection=self._count, **fields)

    def end(self, local: LocalConnection, reason: str) -> None:
        """Report that a connection has ended; an empty reason is an orderly end."""
        number = self._numbers.pop(local)
        self._ended = (self._ended[0] + local.sent, self._ended[1] + local.received)
        how = f"cut off: {reason}" if reason else "ended"
        self._display.event(
            "connection_ended",
            f"connection {number}: {how} ({size(local.sent)} sent, {size(local.received)} received)",
            connection=number,
            reason=reason,
            sent=local.sent,
            received=local.received,
        )

    def _tick(self) -> None:
        self._loop.call_later(INTERVAL, self._tick)
        now = (
            self._ended[0] + sum(local.sent for local in self._numbers),
            self._ended[1] + sum(local.received for local in self._numbers),
        )
        sent, received = now[0] - self._before[0], now[1] - self._before[1]
        self._before = now
        self._display.traffic(self.open, sent / INTERVAL, received / INTERVAL)
