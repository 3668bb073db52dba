"""The memory that connections may fill: one budget for all of them.

Everything that waits in memory is counted. Each connection may hold a little (FREE_BUFFER_SIZE)
whatever the others do, so that small messages always pass. A larger frame reserves its whole length
before it is read on, so that every frame that was begun can be ended. Who has to wait is not read
until somebody gives back. Who needs little room has it first, unless others wait for long; and a part of
the budget is for ordinary messages alone. To those who wait give way: frames of which nothing comes any
more, then the slowest, and what waits for a peer that takes nothing.
"""

from __future__ import annotations

import math
from typing import Callable, Generic, NamedTuple, TypeVar

from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.limits import FREE_BUFFER_SIZE, KIB, OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER

SPARE_BUFFERS = 3
SPARE_BUFFER_FROM = 64 * 1024  # bytes: below that, fresh memory is cheap
ORDINARY_SIZE = 128 * KIB  # bytes of a frame: released nodes put up to 64 KiB of padding on a small message
LARGE_FRAMES_SHARE = 0.75  # of the budget, for frames that are larger
AGED = 4.0  # seconds after which who waits is not passed any more by those who need less
LOOK_INTERVAL = 0.1  # seconds between two looks at what comes of the frames under way
PATIENCE_WITH_STALLED = 2.0  # seconds that nothing may come of a frame under way while others wait for room
PATIENCE_WITH_BEGUN = 0.5  # seconds, where next to nothing of it came before
PATIENCE_WITH_SLOW = 15.0  # seconds that a frame may take while others wait for room
PATIENCE_WITH_KEEPERS = 2.0  # seconds that a peer may take nothing while others wait for room
_LARGEST = FRAME_LENGTH_SIZE + MAX_FRAME_SIZE

T = TypeVar("T")


class _Need(NamedTuple):
    """What somebody waits for: so many bytes more, for a frame of that size; and since when."""

    more: int
    size: int
    since: float


class _Frame:
    """A frame under way that has its room: since when, how much came, and when that was seen to grow."""

    __slots__ = ("came", "grew_at", "since")

    def __init__(self, came: int, now: float) -> None:
        self.since = self.grew_at = now
        self.came = came


class Budget(Generic[T]):
    """Counts what connections buffer, and who waits for room.

    Args:
        limit: bytes in all.
        progress: how many bytes of its frame a holder of a reservation has received.
        is_read: whether it is for the peer to send more, and not for us to read it.
    """

    def __init__(
        self,
        limit: int,
        progress: Callable[[T], int] = lambda _: 0,
        is_read: Callable[[T], bool] = lambda _: True,
    ) -> None:
        self.limit = limit
        self._progress = progress
        self._is_read = is_read
        self.used = 0
        self._holders: dict[T, _Frame] = {}  # oldest first
        self._begun: dict[T, float] = {}  # who holds a little without a reservation, and since when
        self._keepers: dict[T, float] = {}  # since when nothing moved, longest first
        self._waiting: dict[T, _Need] = {}
        self._next_look = 0.0
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
        need = _Need(size - held, size, now)
        if not self._fits(need, self.used, not self._holders):
            self._waiting[holder] = need
            self._used_when_tried = max(self._used_when_tried, self.used)
            return False
        self.used += need.more
        self._holders[holder] = _Frame(held, now)
        self._begun.pop(holder, None)
        return True

    def _fits(self, need: _Need, used: int, alone: bool) -> bool:
        limit = self.limit if need.size <= ORDINARY_SIZE else int(self.limit * LARGE_FRAMES_SHARE)
        # One frame may always be under way, however small an operator made the budget.
        return used + need.more <= limit or (alone and used < limit)

    def release(self, holder: T, size: int) -> None:
        """Give back what `reserve` gave."""
        self.used -= size
        del self._holders[holder]
        self._used_when_tried = math.inf

    def forget(self, holder: T) -> None:
        """Take `holder`, which ended, out of those who wait and those who keep."""
        self._keepers.pop(holder, None)
        self._begun.pop(holder, None)
        self._waiting.pop(holder, None)

    def take_waiting(self, now: float) -> list[T]:
        """Return, and forget, those for whom there is room now: who waits for long, then who needs least."""
        if self.exhausted or self.used >= self._used_when_tried:
            return []
        self._used_when_tried = self.used
        room = self.used
        again: list[T] = []
        for each, need in sorted(self._waiting.items(), key=lambda item: _rank(item[1], now)):
            if not self._fits(need, room, not self._holders and not again):
                break
            room += need.more
            again.append(each)
        for each in again:
            del self._waiting[each]
        return again

    @property
    def serves_nobody(self) -> bool:
        """Whether others wait, and not even who needs least of them finds room."""
        least = min(self._waiting.values(), default=None)
        if least is None:
            return self.exhausted
        return not self._fits(least, self.used, not self._holders)

    def begin(self, holder: T, now: float) -> None:
        """Take note that `holder` has the begin of something, without a reservation."""
        self._begun.setdefault(holder, now)

    def finish(self, holder: T) -> None:
        """Take note that what `holder` had begun is done."""
        self._begun.pop(holder, None)

    def keep(self, keeper: T, size: int, now: float) -> None:
        """Take note that `size` bytes wait at `keeper` for a peer that took some, if ever, `now`."""
        self._keepers.pop(keeper, None)
        if size > FREE_BUFFER_SIZE:
            self._keepers[keeper] = now

    def overdue(self, now: float) -> list[T]:
        """Return who may have to give way to those who wait, longest first of each kind."""
        if not self._waiting:
            return []
        overdue: list[T] = []
        if self._keepers and self.serves_nobody:
            keeper, since = next(iter(self._keepers.items()))
            if now - since >= PATIENCE_WITH_KEEPERS:
                overdue.append(keeper)
        if now >= self._next_look:
            self._next_look = now + LOOK_INTERVAL
            overdue += self._overdue_holders(now)
            for each, since in self._begun.items():
                if now - since < PATIENCE_WITH_STALLED:
                    break
                if self._is_read(each) and each not in self._waiting:
                    overdue.append(each)
        return overdue

    def _overdue_holders(self, now: float) -> list[T]:
        stalled: list[T] = []
        for holder, frame in self._holders.items():
            came = self._progress(holder)
            if came > frame.came:
                frame.came, frame.grew_at = came, now
            patience = PATIENCE_WITH_BEGUN if came <= FREE_BUFFER_SIZE else PATIENCE_WITH_STALLED
            if now - frame.grew_at >= patience:
                stalled.append(holder)
        if stalled or not self._holders:
            return stalled
        slowest = min(self._holders, key=lambda each: self._speed(each, now))
        return [slowest] if now - self._holders[slowest].since >= PATIENCE_WITH_SLOW else []

    def _speed(self, holder: T, now: float) -> float:
        frame = self._holders[holder]
        return frame.came / max(now - frame.since, 0.001)


def _rank(need: _Need, now: float) -> tuple[bool, float]:
    return (False, need.since) if now - need.since >= AGED else (True, need.more)


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
