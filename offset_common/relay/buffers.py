"""The memory that connections may fill: one budget for all of them.

Everything that waits in memory is counted. Each connection may hold a little (FREE_BUFFER_SIZE)
whatever the others do, so that small messages always pass. A larger frame reserves its whole length
before it is read on, so that every frame that was begun can be ended. Who has to wait is not read
until somebody gives back. To those who wait give way, of the frames under way the one that comes
slowest, and of what waits for a peer that takes nothing what waits longest. Who needs little room has it
first, and a part of the budget is for ordinary messages alone: frames of a mebibyte that never end
keep nobody from those.
"""

from __future__ import annotations

import math
from operator import itemgetter
from typing import Callable, Generic, Optional, TypeVar

from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.limits import FREE_BUFFER_SIZE, KIB, OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER

SPARE_BUFFERS = 3
SPARE_BUFFER_FROM = 64 * 1024  # bytes: below that, fresh memory is cheap
ORDINARY_SIZE = 128 * KIB  # bytes of a frame: released nodes put up to 64 KiB of padding on a small message
LARGE_FRAMES_SHARE = 0.75  # of the budget, for frames that are larger
PATIENCE_WITH_HOLDERS = 2.0  # seconds that a begun frame may take while others wait for room
PATIENCE_WITH_BEGUN = 0.5  # seconds that one may take of which next to nothing came
PATIENCE_WITH_KEEPERS = 2.0  # seconds that a peer may take nothing while others wait for room
_LARGEST = FRAME_LENGTH_SIZE + MAX_FRAME_SIZE

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
        self._keepers: dict[T, float] = {}  # since when nothing moved, longest first
        self._waiting: dict[T, int] = {}  # bytes that each needs
        self._used_when_tried = 0.0  # with as much used, nobody of those who wait found room

    def __len__(self) -> int:
        """How many wait for room."""
        return len(self._waiting)

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
        if not self._fits(size - held, size, self.used, not self._holders):
            self._waiting[holder] = size - held
            self._used_when_tried = max(self._used_when_tried, self.used)
            return False
        self.used += size - held
        self._holders[holder] = now
        return True

    def _fits(self, more: int, size: int, used: int, alone: bool) -> bool:
        limit = self.limit if size <= ORDINARY_SIZE else int(self.limit * LARGE_FRAMES_SHARE)
        # One frame may always be under way, however small an operator made the budget.
        return used + more <= limit or (alone and used < limit)

    def release(self, holder: T, size: int) -> None:
        """Give back what `reserve` gave."""
        self.used -= size
        del self._holders[holder]
        self._used_when_tried = math.inf

    def forget(self, holder: T) -> None:
        """Take `holder`, which ended, out of those who wait and those who keep."""
        self._keepers.pop(holder, None)
        self._waiting.pop(holder, None)

    def take_waiting(self) -> list[T]:
        """Return, and forget, those for whom there is room now; who needs least is first."""
        if self.exhausted or self.used >= self._used_when_tried:
            return []
        self._used_when_tried = self.used
        room = self.used
        again: list[T] = []
        for each, size in sorted(self._waiting.items(), key=itemgetter(1)):
            if not self._fits(size, size, room, not self._holders and not again):
                break
            room += size
            again.append(each)
        for each in again:
            del self._waiting[each]
        return again

    def keep(self, keeper: T, size: int, now: float) -> None:
        """Take note that `size` bytes wait at `keeper` for a peer that took some, if ever, `now`."""
        self._keepers.pop(keeper, None)
        if size > FREE_BUFFER_SIZE:
            self._keepers[keeper] = now

    def overdue_keeper(self, now: float) -> Optional[T]:
        """Return at whom so much waits for so long that it gives way to those who wait; or None."""
        if not self._waiting or not self._keepers or not self.exhausted:
            return None
        keeper, since = next(iter(self._keepers.items()))
        return keeper if now - since >= PATIENCE_WITH_KEEPERS else None

    def overdue_holder(self, now: float) -> Optional[T]:
        """Return who must give way because others wait, or None: the slowest, once it had its time."""
        if not self._waiting or not self._holders:
            return None
        holder = min(self._holders, key=lambda each: self._speed(each, now))
        has_begun = self._progress(holder) <= FREE_BUFFER_SIZE
        patience = PATIENCE_WITH_BEGUN if has_begun else PATIENCE_WITH_HOLDERS
        return holder if now - self._holders[holder] >= patience else None

    def _speed(self, holder: T, now: float) -> float:
        return self._progress(holder) / max(now - self._holders[holder], 0.001)


class SpareBuffers:
    """A few buffers for the largest frame, used again: fresh memory of that size costs page faults."""

    def __init__(self) -> None:
        self._spare: list[bytearray] = []
        self._made = 0  # of the largest size, and not let go

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least `size` bytes."""
        if self._spare and size >= SPARE_BUFFER_FROM:
            return self._spare.pop()
        if size < SPARE_BUFFER_FROM or self._made == SPARE_BUFFERS:
            return bytearray(size)  # not the largest: no more should be filled than was counted
        self._made += 1
        return bytearray(_LARGEST)

    def give_back(self, buffer: bytearray) -> None:
        """Keep `buffer` for the next one who takes, or let it go."""
        if len(buffer) == _LARGEST and len(self._spare) < SPARE_BUFFERS:
            self._spare.append(buffer)

    def clear(self) -> None:
        """Let all of them go."""
        self._made -= len(self._spare)
        self._spare.clear()
