"""Deadlines of many connections, found without a scan over all of them.

Time is cut into ticks; each tick that somebody waits for has a set of those who do. A connection
has one entry, is moved only when its entry comes up, and is then asked anew when it is due, so
traffic costs no bookkeeping here.
"""

from __future__ import annotations

import heapq
from typing import Generic, Optional, TypeVar

TICK = 0.25  # seconds: a deadline is met at most so much late

T = TypeVar("T")


class Deadlines(Generic[T]):
    """At most one deadline for each item."""

    def __init__(self) -> None:
        self._ticks: dict[int, set[T]] = {}
        self._order: list[int] = []  # a heap of the keys of _ticks
        self._tick_of: dict[T, int] = {}

    def __len__(self) -> int:
        """The items that have a deadline."""
        return len(self._tick_of)

    def schedule(self, item: T, when: float) -> None:
        """Let `item` be due at `when` seconds, instead of any earlier arrangement."""
        tick = int(when / TICK) + 1
        previous = self._tick_of.get(item)
        if previous == tick:
            return
        if previous is not None:
            self._ticks[previous].discard(item)
        self._tick_of[item] = tick
        members = self._ticks.get(tick)
        if members is None:
            members = self._ticks[tick] = set()
            heapq.heappush(self._order, tick)
        members.add(item)

    def cancel(self, item: T) -> None:
        """Forget `item`, whether it has a deadline or not."""
        tick = self._tick_of.pop(item, None)
        if tick is not None:
            self._ticks[tick].discard(item)

    def next_time(self) -> Optional[float]:
        """Return the time of the next deadline in seconds, or None."""
        while self._order and not self._ticks[self._order[0]]:
            del self._ticks[heapq.heappop(self._order)]
        return self._order[0] * TICK if self._order else None

    def take_due(self, now: float) -> list[T]:
        """Return, and forget, the items whose deadline is over."""
        due: list[T] = []
        while self._order and self._order[0] * TICK <= now:
            due.extend(self._ticks.pop(heapq.heappop(self._order)))
        for item in due:
            del self._tick_of[item]
        return due
