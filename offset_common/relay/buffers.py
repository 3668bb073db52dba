"""The memory that connections may fill: one budget for all of them.

Everything that waits in memory is counted. Each connection may hold a little (FREE_BUFFER_SIZE)
whatever the others do, so that small messages always pass. A larger frame reserves its whole length
before it is read on, so that every frame that was begun can be ended. Who has to wait is not read
until somebody gives back; of those who hold a reservation, the one whose frame comes slowest gives
way to those who wait.
"""

from __future__ import annotations

import mmap
from collections import deque
from typing import Callable, Generic, Optional, TypeVar

from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.limits import FREE_BUFFER_SIZE, MIB, OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER

SPARE_BUFFERS = 3
SPARE_BUFFER_FROM = 64 * 1024  # bytes: below that, fresh memory is cheap
PATIENCE_WITH_HOLDERS = 2.0  # seconds that a begun frame may take while others wait for room
MEMORY_RESERVE = 4 * MIB  # bytes of address space; they are never touched
REFILL_PAUSE = 0.5  # seconds
MEMORY_CHECKED = 2 * MIB  # bytes of address space: Python asks for 1 MiB at a time

T = TypeVar("T")


class Budget(Generic[T]):
    """Counts what connections buffer, and who waits for room.

    Args:
        limit: bytes in all.
        progress: how many bytes of its frame a holder of a reservation has received.
    """

    def __init__(self, limit: int, progress: Callable[[T], int] = lambda _: 0) -> None:
        self.limit = limit
        self._progress = progress
        self.used = 0
        self._holders: dict[T, float] = {}  # since when, oldest first
        self._waiting: deque[T] = deque()

    @property
    def exhausted(self) -> bool:
        """Whether as much is buffered as may be."""
        return self.used >= self.limit

    @property
    def high_water(self) -> int:
        """Bytes queued for a peer at which its partner is no longer read."""
        return OUTPUT_HIGH_WATER if not self.exhausted else FREE_BUFFER_SIZE

    @property
    def low_water(self) -> int:
        """Bytes queued for a peer at which its partner is read again."""
        return OUTPUT_LOW_WATER if not self.exhausted else 0

    @property
    def somebody_waits(self) -> bool:
        """Whether a connection waits for room."""
        return bool(self._waiting)

    def reserve(self, holder: T, size: int, held: int, now: float) -> bool:
        """Take `size` bytes for a frame of `holder`, of which `held` are counted; or remember who waits."""
        # One frame may always be under way, however small an operator made the budget.
        if self.used + size - held > self.limit and self._holders:
            self._waiting.append(holder)
            return False
        self.used += size - held
        self._holders[holder] = now
        return True

    def release(self, holder: T, size: int) -> None:
        """Give back what `reserve` gave."""
        self.used -= size
        del self._holders[holder]

    def forget(self, holder: T) -> None:
        """Take `holder` out of those who wait."""
        if holder in self._waiting:
            self._waiting.remove(holder)

    def take_waiting(self) -> list[T]:
        """Return, and forget, those who may try again now."""
        if self.exhausted and self._holders:
            return []
        again = list(self._waiting)
        self._waiting.clear()
        return again

    def overdue_holder(self, now: float) -> Optional[T]:
        """Return who must give way because others wait, or None: the slowest, once it had its time."""
        if not self._waiting or not self._holders:
            return None
        holder = min(self._holders, key=lambda each: self._speed(each, now))
        return holder if now - self._holders[holder] >= PATIENCE_WITH_HOLDERS else None

    def _speed(self, holder: T, now: float) -> float:
        return self._progress(holder) / max(now - self._holders[holder], 0.001)


class SpareBuffers:
    """Buffers for large frames, used again: fresh memory of that size costs page faults."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least `size` bytes."""
        if size < SPARE_BUFFER_FROM:
            return bytearray(size)
        return self._spare.pop() if self._spare else bytearray(FRAME_LENGTH_SIZE + MAX_FRAME_SIZE)

    def give_back(self, buffer: bytearray) -> None:
        """Keep `buffer` for the next one who takes, or let it go."""
        if len(buffer) > SPARE_BUFFER_FROM and len(self._spare) < SPARE_BUFFERS:
            self._spare.append(buffer)

    def clear(self) -> None:
        """Let all of them go."""
        self._spare.clear()


class MemoryReserve:
    """Memory set aside for the moment when the system has none left: closing a connection needs some, too."""

    def __init__(self) -> None:
        self._reserve: Optional[mmap.mmap] = mmap.mmap(-1, MEMORY_RESERVE)
        self._refill_at = 0.0

    def use(self, now: float) -> bool:
        """Give the reserve back to the system; say whether there was one."""
        if self._reserve is None:
            return False
        self._reserve.close()
        self._reserve = None
        self._refill_at = now + REFILL_PAUSE
        return True

    @staticmethod
    def check() -> bool:
        """Say whether there is some memory left beside the reserve."""
        try:
            mmap.mmap(-1, MEMORY_CHECKED).close()
            return True
        except OSError:
            pass  # the system gives nothing more; what was given back before may do
        try:
            bytearray(MEMORY_CHECKED)
            return True
        except MemoryError:
            return False

    def next_time(self) -> Optional[float]:
        """Return when `refill` should be tried, or None."""
        return self._refill_at if self._reserve is None else None

    def refill(self, now: float) -> None:
        """Set memory aside again after it was used, where the system has some."""
        if self._reserve is None and now >= self._refill_at:
            try:
                self._reserve = mmap.mmap(-1, MEMORY_RESERVE)
            except OSError:
                self._refill_at = now + REFILL_PAUSE
