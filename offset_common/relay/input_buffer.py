"""Unhandled input of a connection: usually nothing, or a partial frame.

Small frames are cut from the receive buffer that all connections share; the unhandled rest is saved, and
copied to the front of that buffer at the next read. A large frame gets a buffer of its own, into which the
socket is read directly, up to the frame's end.

More of a frame over SMALL_READ is read once space for the rest of it is *reserved*: the rest then counts as
if it were kept.
"""

from __future__ import annotations

from typing import Optional

from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.relay.buffer_pool import LARGEST_FRAME, Account
from offset_common.relay.limits import SMALL_READ

RECEIVE_BUFFER_SIZE = 768 * 1024  # bytes, shared by all connections of a process
OWN_BUFFER_FROM = 128 * 1024  # bytes; a frame of this size or more gets a buffer of its own
SPARE_BUFFERS = 3


class ReceiveBuffer:
    """The memory that the connections of one process read into, one at a time, and buffers for large frames.

    A few of these are reused: fresh memory of their size costs page faults.
    """

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self._spare: list[bytearray] = []
        self._made = 0  # of the largest size, in use or spare

    def take(self, size: int) -> bytearray:
        """Return a buffer of at least `size` bytes for a large frame."""
        if self._spare:
            return self._spare.pop()
        if self._made == SPARE_BUFFERS:
            return bytearray(size)
        self._made += 1
        return bytearray(LARGEST_FRAME)

    def give_back(self, buffer: bytearray) -> None:
        """Keep `buffer` for reuse, or drop it."""
        if len(buffer) == LARGEST_FRAME and len(self._spare) < SPARE_BUFFERS:
            self._spare.append(buffer)


class InputBuffer:
    """The unhandled input of one connection, from the start of a frame on.

    Args:
        account: counts the bytes kept.
        shared: the process's receive buffer.
    """

    __slots__ = ("_account", "_own", "_rest", "_shared", "backlog", "kept", "reserved")

    def __init__(self, account: Account, shared: ReceiveBuffer) -> None:
        self._account = account
        self._shared = shared
        self._rest = b""
        self._own: Optional[bytearray] = None  # the buffer of a large frame, in place of `_rest`
        self.kept = 0  # bytes, in either of these
        self.reserved = 0  # bytes: the rest of a partial frame, if space is reserved for it
        self.backlog = False  # whole frames may be kept, to be handled before more is read

    def space(self, most: int) -> tuple[memoryview, int, int]:
        """Return where to read at most `most` bytes to; `keep` then stores what is not handled.

        Returns: a buffer, how many bytes at its front were read earlier, and where the read must end.
        """
        if self._own is not None:
            return memoryview(self._own), self.kept, self.kept + min(self.reserved, most)
        view = self._shared.view
        if self.kept:
            view[: self.kept] = self._rest
        return view, self.kept, min(len(view), self.kept + most)

    def keep(self, data: memoryview, start: int, backlog: bool) -> None:
        """Keep `data` from `start` on.

        Args:
            data: the bytes kept before, followed by those just read.
            start: where the unhandled part begins.
            backlog: whether that part may contain whole frames.
        """
        self.backlog = backlog
        left = len(data) - start
        if not left and not self.kept:
            return
        reserved = 0 if start else max(0, self.kept + self.reserved - left)  # if it is still the same frame
        if start or self._own is None:
            self._rest = bytes(data[start:])
            self._release_own()
        self._count(left, reserved)

    def frame_size(self) -> int:
        """Return the size of the partial frame, with its length field; 0 if it is unknown."""
        if self.backlog or self.kept < FRAME_LENGTH_SIZE:
            return 0
        return FRAME_LENGTH_SIZE + int.from_bytes((self._own or self._rest)[:FRAME_LENGTH_SIZE], "big")

    def reserve_frame(self) -> None:
        """Reserve space for the whole partial frame, and give a large one its own buffer."""
        size = self.frame_size()
        self._count(self.kept, size - self.kept)
        if size >= OWN_BUFFER_FROM and self._own is None:
            self._own = self._shared.take(size)
            self._own[: self.kept] = self._rest
            self._rest = b""

    def needs_reservation(self) -> int:
        """Return how many bytes must be free before more of the partial frame is read; 0 for a small one."""
        size = self.frame_size()
        return size - self.kept if size > SMALL_READ and not self.reserved else 0

    def content(self) -> bytes:
        """Return the bytes kept."""
        return bytes((self._own or self._rest)[: self.kept])

    def put(self, data: bytes) -> None:
        """Keep `data`, which another part of the relay has read; it may contain whole frames."""
        self.backlog = bool(data)
        self._rest = data
        self._count(len(data))

    def clear(self) -> None:
        """Discard the buffered input."""
        self._release_own()
        self._rest = b""
        self.backlog = False
        self._count(0)

    def _release_own(self) -> None:
        if self._own is not None:
            self._shared.give_back(self._own)
            self._own = None

    def _count(self, kept: int, reserved: int = 0) -> None:
        change = kept + reserved - self.kept - self.reserved
        self.kept, self.reserved = kept, reserved
        if change:
            self._account.add(change)
