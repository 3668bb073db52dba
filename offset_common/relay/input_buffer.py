"""Unhandled input of a connection: usually nothing, or a partial frame.

Small frames are cut from the receive buffer that all connections share; the unhandled rest is saved, and
copied to the front of that buffer at the next read. A large frame gets a buffer of its own, into which the
socket is read directly, up to the frame's end.
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple, Optional

from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.relay.buffer_pool import Account, SpareBuffers
from offset_common.relay.limits import FREE_BUFFER_SIZE

RECEIVE_BUFFER_SIZE = 768 * 1024  # bytes, shared by all connections of a process
OWN_BUFFER_FROM = 128 * 1024  # bytes; a frame of this size or more gets a buffer of its own

_LENGTH = Struct(">Q")


class Space(NamedTuple):
    """Where the next bytes of the socket go.

    Args:
        view: the buffer.
        fill: bytes at its front that were read earlier.
        end: the first byte that must not be written.
    """

    view: memoryview
    fill: int
    end: int


class ReceiveBuffer:
    """The memory that the connections of one process read into, one at a time."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(RECEIVE_BUFFER_SIZE))
        self.spare = SpareBuffers()


class InputBuffer:
    """The unhandled input of one connection.

    Args:
        account: counts the bytes kept.
        shared: the process's receive buffer.
    """

    __slots__ = ("_account", "_buffer", "_counted", "_fill", "_own", "_shared", "backlog")

    def __init__(self, account: Account, shared: ReceiveBuffer) -> None:
        self._account = account
        self._shared = shared
        self.backlog = False  # whole frames may be kept, to be handled before more is read
        self._buffer: Optional[bytearray] = None
        self._fill = 0
        self._own = False  # the buffer is for one large frame
        self._counted = 0  # bytes in the account: the bytes kept, or the whole frame once reserved

    def __len__(self) -> int:
        """Return the number of bytes kept."""
        return 0 if self._buffer is None else self._fill

    @property
    def reads_directly(self) -> bool:
        """Whether the rest of a large frame is read into its own buffer."""
        return self._own

    @property
    def frame_reserved(self) -> bool:
        """Whether space is reserved for the rest of a partial frame."""
        return self._counted > len(self)

    @property
    def missing(self) -> int:
        """The number of bytes that a partial frame with reserved space still lacks."""
        return self._counted - len(self)

    def space(self, most: int, metered: bool = False) -> Space:
        """Return where to read to; `keep` then stores what is not handled.

        Args:
            most: the maximum number of bytes to read.
            metered: whether `most` also limits a large frame in its own buffer, otherwise read to its end.
        """
        if self._own:
            assert self._buffer is not None
            end = min(self._counted, self._fill + most) if metered else self._counted
            return Space(memoryview(self._buffer), self._fill, end)
        view = self._shared.view
        fill = len(self)
        if fill:
            assert self._buffer is not None
            view[:fill] = self._buffer
        return Space(view, fill, min(len(view), fill + most))

    def keep(self, data: memoryview, start: int, backlog: bool) -> None:
        """Keep `data` from `start` on.

        Args:
            data: the bytes kept before, followed by those just read.
            start: where the unhandled part begins.
            backlog: whether that part may contain whole frames.
        """
        self.backlog = backlog
        if self._own and not start:
            self._fill = len(data)
            return  # it is still the same frame
        left = len(data) - start
        reserved = self._counted if not start and self.frame_reserved else 0
        content = bytearray(data[start:]) if left else None
        self.clear()
        if content is not None:
            self.backlog = backlog
            self._buffer = content
            self._fill = left
            self._count(max(left, reserved))

    def frame_size(self) -> int:
        """Return the size of the partial frame, with its length field; 0 if it is unknown."""
        if self._buffer is None or self.backlog or self._fill < FRAME_LENGTH_SIZE:
            return 0
        return FRAME_LENGTH_SIZE + int(_LENGTH.unpack_from(self._buffer)[0])

    def reserve_frame(self) -> None:
        """Reserve space for the whole partial frame, and give a large one its own buffer."""
        size = self.frame_size()
        self._count(size)
        if size >= OWN_BUFFER_FROM and not self._own:
            assert self._buffer is not None
            partial = self._buffer
            self._buffer = self._shared.spare.take(size)
            self._buffer[: self._fill] = partial
            self._own = True

    def needs_reservation(self) -> int:
        """Return how many bytes must be free before more of the partial frame is read; 0 for a small one."""
        size = self.frame_size()
        return size - self._counted if size > FREE_BUFFER_SIZE and not self.frame_reserved else 0

    def content(self) -> bytes:
        """Return the bytes kept."""
        return b"" if self._buffer is None else bytes(self._buffer[: self._fill])

    def put(self, data: bytes) -> None:
        """Keep `data`, which another part of the relay has read; it may contain whole frames."""
        self.backlog = bool(data)
        if data:
            self._buffer = bytearray(data)
            self._fill = len(data)
            self._count(len(data))

    def clear(self) -> None:
        """Discard the buffered input."""
        if self._own:
            assert self._buffer is not None
            self._shared.spare.give_back(self._buffer)
            self._own = False
        self._buffer = None
        self.backlog = False
        self._fill = 0
        self._count(0)

    def _count(self, size: int) -> None:
        if size != self._counted:
            self._account.add(size - self._counted)
            self._counted = size
