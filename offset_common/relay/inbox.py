"""What a link has read and not processed yet: mostly nothing, or the begin of a frame.

Small frames are cut from the buffer that all links share; what is left of the last one is copied
away and, at the next read, to the front of the shared buffer. A large frame gets a buffer of
its own, into which the socket is read directly, up to the frame's end.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, Optional

from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.relay.limits import FREE_BUFFER_SIZE

if TYPE_CHECKING:
    from offset_common.relay.host import Host
    from offset_common.relay.link import Link

OWN_BUFFER_FROM = 128 * 1024  # bytes of a frame that gets a buffer of its own

_LENGTH = Struct(">Q")


class Room(NamedTuple):
    """Where the next bytes of the socket go.

    Args:
        view: the buffer.
        fill: bytes of it that came before.
        end: up to where may be read.
    """

    view: memoryview
    fill: int
    end: int


class Inbox:
    """The bytes of one link that wait. It does not know the link: in a circle both would outlive their end.

    Args:
        host: what the link shares with the others.
    """

    __slots__ = ("_buffer", "_fill", "_host", "_own", "_reserved", "backlog")

    def __init__(self, host: Host) -> None:
        self._host = host
        self.backlog = False  # whole frames wait: nothing more is read before they are processed
        self._buffer: Optional[bytearray] = None
        self._fill = 0
        self._own = False  # the buffer is one for a whole large frame
        self._reserved = 0  # bytes of the budget that the frame has, instead of `_fill`

    def __len__(self) -> int:
        """The bytes that wait."""
        return 0 if self._buffer is None else self._fill

    @property
    def directly_read(self) -> bool:
        """Whether the rest of a large frame is read into its own buffer."""
        return self._own

    @property
    def has_room(self) -> bool:
        """Whether a frame is under way for which room was taken."""
        return bool(self._reserved)

    def room(self, most: int) -> Room:
        """Return where to read to; `keep` must follow.

        Args:
            most: bytes to read at most.
        """
        if self._own:
            assert self._buffer is not None
            return Room(memoryview(self._buffer), self._fill, self._reserved)
        shared = self._host.shared_view
        fill = len(self)
        if fill:
            assert self._buffer is not None
            shared[:fill] = self._buffer
        return Room(shared, fill, min(len(shared), fill + most))

    def keep(self, link: Link, data: memoryview, start: int, reserve: bool, whole: bool) -> bool:
        """Keep what is left of `data` from `start` on.

        Args:
            link: whose.
            data: what waited before, and what was read behind it.
            start: where what is left begins.
            reserve: take room now for all of a large frame that has begun.
            whole: there are whole frames in it.

        Returns: whether the socket may be read on: not while there is no room.
        """
        self.backlog = whole
        if self._own and not start:
            self._fill = len(data)
            return True  # still the same frame
        left = len(data) - start
        if start or whole or not left:
            self.forget(link)
            if not left:
                return True
        elif not self._reserved:
            self._host.budget.used -= len(self)
        self._buffer = bytearray(data[start:])
        self._fill = left
        if not self._reserved:
            self._host.budget.used += left
            self._host.budget.begin(link, self._host.loop.now)
        return self.reserve(link) if reserve and not whole else True

    def reserve(self, link: Link) -> bool:
        """Take room for all of a large frame that has begun; say whether there was."""
        missing = self.missing()
        size = len(self) + missing
        if missing <= 0 or size <= FREE_BUFFER_SIZE:
            return True
        host = self._host
        if not self._reserved:
            if not host.budget.reserve(link, size, len(self), host.loop.now):
                return False
            self._reserved = size
        if size >= OWN_BUFFER_FROM and not self._own:
            assert self._buffer is not None
            begun = self._buffer
            self._buffer = host.spare_buffers.take(size)
            self._buffer[: self._fill] = begun
            self._own = True
        return True

    def missing(self) -> int:
        """Return how many bytes are still to come of the incomplete frame, as far as that is known."""
        if self._buffer is None or self._fill < FRAME_LENGTH_SIZE:
            return 0
        return FRAME_LENGTH_SIZE + int(_LENGTH.unpack_from(self._buffer)[0]) - self._fill

    def content(self) -> bytes:
        """Return the bytes that wait."""
        return b"" if self._buffer is None else bytes(self._buffer[: self._fill])

    def put(self, data: bytes) -> None:
        """Let `data`, read by somebody else before, be what waits."""
        if data:
            self._buffer = bytearray(data)
            self._fill = len(data)
            self._host.budget.used += len(data)

    def forget(self, link: Link) -> None:
        """Drop what waits, and give back its room."""
        if self._buffer is None:
            return
        if self._reserved:
            self._host.budget.release(link, self._reserved)
            self._reserved = 0
        else:
            self._host.budget.used -= self._fill
            self._host.budget.finish(link)
        if self._own:
            self._host.spare_buffers.give_back(self._buffer)
            self._own = False
        self._buffer = None
        self._fill = 0
