"""Length-prefixed frames: from a byte stream to payloads, and back.

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
    """A frame announces a payload that is too large.

    Args:
        length: bytes, as announced.
        limit: the maximum size of a payload, in bytes.
    """

    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"a frame of {length} bytes; at most {limit} are allowed")
        self.length = length
        self.limit = limit


class OldPeerError(FrameError):
    """The peer is a release up to v0.1.2, which sends four-byte lengths."""

    def __init__(self) -> None:
        super().__init__("peer older than 0.1.3")


def encode_frame(payload: Buffer) -> bytes:
    """Return the frame of a payload."""
    return encode_length(payload) + payload


def encode_length(payload: Buffer) -> bytes:
    """Return the length prefix of a payload's frame."""
    return _LENGTH.pack(len(payload))


def frame_end(data: Buffer, start: int, limit: int) -> int:
    """Return the end of the frame at `start`, or 0 if more bytes are needed.

    Args:
        data: bytes of a stream.
        start: the position of the frame.
        limit: the maximum size of its payload, in bytes.

    Raises:
        FrameError: the frame announces a larger payload.
    """
    if len(data) - start < FRAME_LENGTH_SIZE:
        return 0
    length: int = _LENGTH.unpack_from(data, start)[0]
    if length > limit:
        if length == _OLD_PEER_LENGTH:
            raise OldPeerError
        raise FrameTooLargeError(length, limit)
    end = start + FRAME_LENGTH_SIZE + length
    return end if end <= len(data) else 0


class FrameReader:
    """Splits a byte stream into payloads.

    Args:
        limit: the maximum size of the next payload, in bytes.
    """

    __slots__ = ("_buffer", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()

    def set_limit(self, limit: int) -> None:
        """Change the maximum size of the next payload."""
        self._limit = limit

    def __len__(self) -> int:
        """Return the number of bytes that have not been returned."""
        return len(self._buffer)

    def peek(self, size: int) -> bytes:
        """Return up to `size` bytes that have not been returned yet, without removing them."""
        return bytes(self._buffer[:size])

    def receive_data(self, data: Buffer) -> None:
        """Add the next bytes of the stream."""
        self._buffer += data

    def has_frame(self) -> bool:
        """Return whether the next payload is complete.

        Raises:
            FrameError: the frame's length is over the limit.
        """
        return frame_end(self._buffer, 0, self._limit) > 0

    def next_frame(self) -> Optional[bytes]:
        """Return the next complete payload, or None if more bytes are needed.

        Raises:
            FrameError: the frame's length is over the limit.
        """
        end = frame_end(self._buffer, 0, self._limit)
        if not end:
            return None
        payload = bytes(memoryview(self._buffer)[FRAME_LENGTH_SIZE:end])
        del self._buffer[:end]  # copies what is left only when half of it is gone
        return payload

    def take_all(self) -> bytes:
        """Return and remove all bytes that have not been returned."""
        rest = bytes(self._buffer)
        self._buffer = bytearray()
        return rest
