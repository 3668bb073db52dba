"""The processor time that costly frames may take: a part of it, however many send such.

A frame of a mebibyte in words that are slow to unpack takes 50 ms and more, and whoever sends one can
send the next. After one that took too long the loop serves the others for a few times as long before it
takes the next one. Only frames that are costly wait (channel/costs.py), and who waits is not read.
"""

from __future__ import annotations

from typing import Callable, Generic, Optional, TypeVar

ALLOWED = 250e-6  # seconds that a frame may take ...
ALLOWED_PER_BYTE = 15e-9  # ... and besides for each of its bytes; runs of words take a tenth of that
REST = 4  # times as long as a costly frame have the others their time

T = TypeVar("T")


class Ration(Generic[T]):
    """Says whose costly frames must wait."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self._waiting: dict[T, None] = {}  # in the order in which they came
        self._turn: Optional[T] = None  # who waited longest, for one round

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def is_free(self, link: T, now: float) -> bool:
        """Say whether a costly frame of `link` may be taken now."""
        if now < self._free_at:
            return False
        return link is self._turn if self._turn is not None else not self._waiting

    def wait(self, link: T) -> None:
        """Let `link` wait until `next_turn` gives it back."""
        self._waiting[link] = None

    def spent(self, frames: int, size: int, seconds: float, now: float) -> None:
        """Take note of what some frames, of `size` bytes together, took."""
        if seconds > ALLOWED * frames + ALLOWED_PER_BYTE * size:
            self._free_at = now + (1 + REST) * seconds

    def next_turn(self, now: float) -> Optional[T]:
        """Return, and forget, who may go on in the next round; or None. Called once a round."""
        self._turn = None
        if self._waiting and now >= self._free_at:
            self._turn = next(iter(self._waiting))
            del self._waiting[self._turn]
        return self._turn

    def next_time(self) -> Optional[float]:
        """Return when `next_turn` should be called, or None."""
        return self._free_at if self._waiting or self._turn is not None else None

    def heaviest_first(self, weight: Callable[[T], int]) -> list[T]:
        """Return those who wait, and who weighs most first."""
        return sorted(self._waiting, key=weight, reverse=True)

    def forget(self, link: T) -> None:
        """Drop `link`, which ended."""
        self._waiting.pop(link, None)
