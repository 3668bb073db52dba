"""Deadlines of many connections, found without scanning all of them.

Time is divided into ticks; each tick with deadlines has a set of items. An item has at most one
deadline. When it expires, the item checks its own timers and sets the next one, so traffic needs no
bookkeeping here.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

TICK = 0.25  # seconds; a deadline may expire this much late

T = TypeVar("T")


class Deadlines(Generic[T]):
    """At most one deadline for each item."""

    def __init__(self) -> None:
        self._ticks: dict[int, set[T]] = {}
        self._order: list[int] = []  # a heap of the keys of _ticks
        self._tick_of: dict[T, int] = {}

    def __len__(self) -> int:
        """Return the number of items that have a deadline."""
        return len(self._tick_of)

    def schedule(self, item: T, when: float) -> None:
        """Set the deadline of `item` to `when` seconds, in place of any previous one."""
        tick = int(when / TICK) + 1
        previous = self._tick_of.get(item)
        if previous == tick:
            return
        if previous is not None:
            self._ticks[previous].discard(item)
        self._tick_of[item] = tick
        items = self._ticks.get(tick)
        if items is None:
            items = self._ticks[tick] = set()
            heapq.heappush(self._order, tick)
        items.add(item)

    def cancel(self, item: T) -> None:
        """Remove the deadline of `item`, if it has one."""
        tick = self._tick_of.pop(item, None)
        if tick is not None:
            self._ticks[tick].discard(item)

    def next_time(self) -> float:
        """Return the time of the next deadline in seconds, or infinity if there is none."""
        while self._order and not self._ticks[self._order[0]]:
            del self._ticks[heapq.heappop(self._order)]
        return self._order[0] * TICK if self._order else math.inf

    def take_expired(self, now: float, most: int) -> list[T]:
        """Remove and return at most `most` items whose deadlines have passed, the earliest ticks first."""
        expired: list[T] = []
        while self._order and self._order[0] * TICK <= now and len(expired) < most:
            items = self._ticks[self._order[0]]
            while items and len(expired) < most:
                item = items.pop()
                del self._tick_of[item]
                expired.append(item)
            if not items:
                del self._ticks[heapq.heappop(self._order)]
        return expired
