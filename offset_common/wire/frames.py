"""Length-prefixed frames: a byte stream cut into payloads, and payloads made into a stream.

Source: section 1 of docs/protocol.md.
"""

from __future__ import annotations

from struct import Struct
from typing import Optional, Union

from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.errors import FrameError

Buffer = Union[bytes, bytearray, memoryview]

_LENGTH = Struct(">Q")

# Releases up to v0.1.2 wrote the length in four bytes, so their first eight bytes,
# the length and content of the version frame, read as this one length.
_OLD_PEER_LENGTH = 4 << 32


class FrameTooLargeError(FrameError):
    """A frame announces more bytes than it may have.

    Args:
        length: the announced bytes.
        limit: the most that this frame may have.
    """

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"a frame of {length} bytes, where at most {limit} may come")
        self.length = length
        self.limit = limit


class OldPeerError(FrameError):
    """The first bytes are those of a release up to v0.1.2, with its four-byte lengths."""

    def __init__(self) -> None:
        super().__init__("peer older than 0.1.3")


def encode_frame(payload: Buffer) -> bytes:
    """Return `payload` with its length in front."""
    return _LENGTH.pack(len(payload)) + payload


def frame_end(data: Buffer, start: int, limit: int) -> int:
    """Return where the frame that begins at `start` ends, which may be behind what is there.

    Args:
        data: a stream; the frame's length, at least, must be there.
        start: where in it.
        limit: bytes that the frame may have.

    Raises:
        FrameError: it announces more.
    """
    length: int = _LENGTH.unpack_from(data, start)[0]
    check_length(length, limit)
    return start + FRAME_LENGTH_SIZE + length


def check_length(length: int, limit: int) -> None:
    """Refuse a frame that is over the limit, before a byte of it is buffered.

    Raises:
        FrameError: `OldPeerError` or `FrameTooLargeError`.
    """
    if length > limit:
        if length == _OLD_PEER_LENGTH:
            raise OldPeerError
        raise FrameTooLargeError(length, limit)


class FrameReader:
    """Takes bytes as they arrive and gives whole payloads.

    Args:
        limit: the most bytes that the payload of the next frame may have; may be changed at any time.
    """

    __slots__ = ("_buffer", "_start", "limit")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._buffer = bytearray()
        self._start = 0  # of the first byte that is not given out yet

    def __len__(self) -> int:
        """The bytes that wait here."""
        return len(self._buffer) - self._start

    def receive_data(self, data: Buffer) -> None:
        """Take the next bytes of the stream, as many as there are."""
        self._buffer += data

    def next_frame(self) -> Optional[bytes]:
        """Return the next whole payload, or None until more bytes come.

        Raises:
            FrameError: the frame's length is over the limit.
        """
        length = self.next_length()
        if length is None:
            return None
        begin = self._start + FRAME_LENGTH_SIZE
        end = begin + length
        if end > len(self._buffer):
            return None
        payload = bytes(memoryview(self._buffer)[begin:end])
        self._start = end
        self._forget_given()
        return payload

    def next_length(self) -> Optional[int]:
        """Return the length of the next payload, or None while it is not known yet.

        Raises:
            FrameError: it is over the limit.
        """
        if len(self._buffer) - self._start < FRAME_LENGTH_SIZE:
            return None
        length: int = _LENGTH.unpack_from(self._buffer, self._start)[0]
        check_length(length, self.limit)
        return length

    def take_all(self) -> bytes:
        """Return the bytes that wait here, whole frames or not, and forget them."""
        rest = bytes(memoryview(self._buffer)[self._start :])
        self._buffer = bytearray()
        self._start = 0
        return rest

    def _forget_given(self) -> None:
        # Deleting the front of a bytearray is cheap once, not for each small frame of a big read.
        if self._start == len(self._buffer):
            self._buffer = bytearray()
            self._start = 0
        elif self._start > 65536:
            del self._buffer[: self._start]
            self._start = 0
