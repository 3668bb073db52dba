"""The processor time that costly frames may take: a part of it, however many send such.

A frame of a mebibyte in words that are slow to unpack takes 50 ms and more, and whoever sends one can
send the next. After such a frame the loop serves the others for a few times as long before it takes the
next one. Small frames do not wait, except those of a link that was costly before; nor do messages of
which a glance tells what they are (glance.py).
"""

from __future__ import annotations

from typing import Generic, Optional, TypeVar

from offset_common.constants import MAX_FRAME_SIZE

SMALL = 4 * 1024  # bytes of a frame that mostly cannot cost much
ALLOWED = 250e-6  # seconds that frames may take ...
ALLOWED_PER_BYTE = 15e-9  # ... and besides for each of their bytes; runs of words take a tenth of that
REST = 4  # times as long as costly frames have the others their time

T = TypeVar("T")


class Ration(Generic[T]):
    """Says whose frames must wait before they are unpacked."""

    def __init__(self) -> None:
        self._free_at = 0.0
        self._costly: set[T] = set()  # who ever took more than is allowed
        self._waiting: dict[T, None] = {}  # in the order in which they came

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def limit(self, link: T, now: float) -> int:
        """Return how many bytes a frame of `link` may have that is unpacked now."""
        if now >= self._free_at:
            return MAX_FRAME_SIZE
        return 0 if link in self._costly else SMALL

    def wait(self, link: T) -> None:
        """Let `link` wait until `next_free` gives it back."""
        self._waiting[link] = None

    def spent(self, link: T, size: int, seconds: float, now: float) -> None:
        """Take note of what frames of `size` bytes took."""
        if seconds > ALLOWED + ALLOWED_PER_BYTE * size:
            self._costly.add(link)
            self._free_at = now + (1 + REST) * seconds

    def next_free(self, now: float) -> Optional[T]:
        """Return, and forget, who may go on now; or None."""
        if not self._waiting or now < self._free_at:
            return None
        link = next(iter(self._waiting))
        del self._waiting[link]
        return link

    def next_time(self) -> Optional[float]:
        """Return when `next_free` should be called, or None."""
        return self._free_at if self._waiting else None

    def forget(self, link: T) -> None:
        """Drop what is known of `link`, which ended."""
        self._costly.discard(link)
        self._waiting.pop(link, None)
