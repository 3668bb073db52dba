"""The memory that connections may fill: one pool, shared fairly by address.

All buffered bytes count: partial frames, unread output, early data. The rule is that of dynamic thresholds:
**a connection and its address together never hold more than is still free.** One address alone gets at most
half of the pool, two get a third each, and some room is always left for others.

Each connection may also buffer FREE_SPACE, so small messages always pass. A connection that gets no space
is not read. Waiting connections resume in the order of arrival when space is released.

Source: A. K. Choudhury, E. L. Hahne, "Dynamic Queue Length Thresholds for Shared-Memory Packet Switches",
IEEE/ACM Transactions on Networking, 1998.
"""

from __future__ import annotations

import math
from typing import Callable, Optional
from weakref import WeakValueDictionary

from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.limits import FREE_SPACE, KIB

LARGEST_FRAME = FRAME_LENGTH_SIZE + MAX_FRAME_SIZE  # bytes
SCAN_ALL_UP_TO = 64  # waiting connections that are tried after every release ...
SCAN_INTERVAL = 0.00001  # ... and between two scans over more, seconds for each; a scan takes 1 us for each
_LARGE_BLOCK = 128 * KIB  # bytes
_M_MMAP_THRESHOLD = -3  # of malloc.h


class _Address:
    """The memory that the connections of one address hold."""

    __slots__ = ("__weakref__", "held")

    def __init__(self) -> None:
        self.held = 0  # bytes, not counting FREE_SPACE of each connection


class Account:
    """The bytes that one connection holds. It has no reference to the connection, which would be a cycle.

    Args:
        pool: counts the bytes of all connections.
        address: counts those of the address.
    """

    __slots__ = ("_address", "_excess", "_pool", "held")

    def __init__(self, pool: BufferPool, address: _Address) -> None:
        self._pool = pool
        self._address = address
        self.held = 0  # bytes
        self._excess = 0  # bytes that the rule applies to

    def add(self, size: int) -> None:
        """Add `size`, which may be negative. This never fails: see `fits`."""
        self.held += size
        excess = max(0, self.held - FREE_SPACE)
        change = excess - self._excess
        if change:
            self._excess = excess
            self._address.held += change
            self._pool.count(change)

    def fits(self, size: int, beside: Optional[Account] = None) -> bool:
        """Return whether the rule allows the connection `size` more bytes.

        Args:
            size: bytes.
            beside: the account of the connection that sends them to this one, if any.
        """
        size -= max(0, FREE_SPACE - self.held)
        # However small the pool is, one frame at a time must pass.
        return size <= 0 or size <= self._allowed() or not self._others(beside)

    def available(self) -> int:
        """Return how many more bytes the rule allows the connection."""
        return max(0, FREE_SPACE - self.held) + max(0, self._allowed())

    def may_overdraw(self) -> bool:
        """Return whether a frame may pass without space, although some of it may have to be kept after all.

        Otherwise such frames could fill the memory of a host whose kernel is short of it.
        """
        return self._address.held <= self._pool.overdraft_limit

    def read_ahead(self, sink: Account) -> int:
        """Return how many bytes the connection may read without knowing the sizes of the frames in them.

        Such a read may end within a large frame. So this is 0 unless a large frame fits as well.

        Args:
            sink: the account of the connection that the frames will be sent to.
        """
        free = min(self.available(), sink.available())
        return free if free >= self._pool.read_ahead_from else 0

    @property
    def waiting(self) -> bool:
        """Whether the connection waits for space."""
        return self in self._pool._waiting

    def wait(self, holder: Account, size: int, resume: Callable[[], None]) -> None:
        """Wait until `holder` has space for `size` bytes, and for nothing else.

        Args:
            holder: this account, or that of the connection that this one sends to.
            size: bytes.
            resume: called by the pool; the connection takes the space in its next turn.
        """
        self._pool._waiting[self] = (holder, size, resume)

    def stop_waiting(self) -> None:
        """Stop waiting, if the connection waits."""
        self._pool._waiting.pop(self, None)

    def _others(self, beside: Optional[Account]) -> int:
        """Return the bytes that all other connections hold."""
        own = self._excess
        if beside is not None and beside is not self:
            own += beside._excess
        return self._pool.used - own

    def _allowed(self) -> int:
        # The largest x for which (excess + x) + (address + x) <= limit - (used + x).
        return (self._pool.limit - self._pool.used - self._address.held - self._excess) // 3


class BufferPool:
    """Counts the bytes that all connections buffer, and holds the connections that wait for space.

    Args:
        limit: bytes, not counting FREE_SPACE of each connection.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0  # bytes that all connections hold, not counting FREE_SPACE of each
        self.read_ahead_from = min(LARGEST_FRAME, limit // 8)  # bytes that must be free for `read_ahead`
        # While an address holds at most this many bytes, frames to it may pass without space. It is more than
        # the half that an address can take, because keepalives are queued without asking for space.
        self.overdraft_limit = max(limit * 3 // 4, LARGEST_FRAME)
        self._addresses: WeakValueDictionary[str, _Address] = WeakValueDictionary()
        self._waiting: dict[Account, tuple[Account, int, Callable[[], None]]] = {}  # in order of arrival
        self._released = False
        self._next_scan = 0.0

    @property
    def waiting(self) -> int:
        """The number of connections that wait for space."""
        return len(self._waiting)

    def open_account(self, address: str) -> Account:
        """Return the account of a new connection of `address`."""
        shared = self._addresses.get(address)
        if shared is None:
            shared = self._addresses[address] = _Address()
        return Account(self, shared)

    def count(self, change: int) -> None:
        """Add the change of one account."""
        self.used += change
        if change < 0:
            self._released = True

    def resume_waiting(self, now: float) -> None:
        """Resume connections that now have space, in the order of arrival; called once a round."""
        if not self._waiting or not self._released or now < self._next_scan:
            return
        if len(self._waiting) > SCAN_ALL_UP_TO:
            self._next_scan = now + SCAN_INTERVAL * len(self._waiting)
        resumed: list[tuple[Account, int]] = []
        for waiter, (holder, size, resume) in list(self._waiting.items()):
            if holder.fits(size, waiter) and self._waiting.pop(waiter, None) is not None:
                # Until the scan ends: otherwise all that wait would be resumed for the space of one.
                holder.add(size)
                resumed.append((holder, size))
                resume()
        for holder, size in resumed:
            holder.add(-size)
        self._released = bool(resumed)  # scan again: one of them may not take its space

    def next_time(self) -> float:
        """Return when `resume_waiting` has something to do."""
        return self._next_scan if self._waiting and self._released else math.inf


def return_large_blocks() -> None:
    """Make the C library return large blocks to the system as soon as they are freed.

    By default, glibc raises its mmap threshold after the first such free, and serves later blocks from its
    heap. Slow readers of a thousand tunnels then cost three times what they buffer. Only glibc does this, and
    only glibc has this call.
    """
    try:
        import ctypes  # missing in a Python that was built without libffi

        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)
    except (ImportError, AttributeError, OSError):
        pass
