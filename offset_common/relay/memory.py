"""What the system's memory is asked for, and what is done when it has none left."""

from __future__ import annotations

import ctypes
import mmap
from typing import Optional

from offset_common.relay.limits import KIB, MIB

MEMORY_RESERVE = 4 * MIB  # bytes of address space; they are never touched
REFILL_PAUSE = 0.5  # seconds
MEMORY_CHECKED = 2 * MIB  # bytes of address space: Python asks for 1 MiB at a time
LARGE_BLOCK = 128 * KIB  # bytes; buffers from that size on go back to the system as soon as they are freed
_M_MMAP_THRESHOLD = -3  # of malloc.h


def give_back_large_blocks() -> None:
    """Let the C library keep no large blocks for later, between which it would lose room.

    By itself it learns, after the first large block, to cut even those from its heap. Slow readers of a
    thousand tunnels then cost three times what they buffer. Only glibc does so, and only it has this call.
    """
    try:
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, LARGE_BLOCK)
    except (AttributeError, OSError):
        pass


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
