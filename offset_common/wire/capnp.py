"""Cap'n Proto: read any message that a peer may send, and build the words of our own.

A message is a table of segment sizes, followed by the segments. A segment consists of words of eight bytes.
A pointer is one word; it points to a struct, to a list, or (a far pointer) into another segment.

The reader trusts nothing. Every object must be inside its segment, and all objects together must not be
larger than the message. So the message's size bounds the work, even with cycles or shared objects.
"""

from __future__ import annotations

import struct
from itertools import accumulate

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.errors import DecodeError
from offset_common.wire.frames import Buffer
from offset_common.wire.packing import WORD_SIZE, max_unpacked_size, unpack

MAX_SEGMENTS = 511  # the limit of the original

# The two low bits of a pointer.
_STRUCT, _LIST, _FAR = 0, 1, 2
_BYTE_ELEMENTS = 2  # the element size of a Data
_DOUBLE_FAR = 4

_STRUCT_POINTER = struct.Struct("<iHH")  # offset << 2 | kind, data words, pointers
_LIST_POINTER = struct.Struct("<iI")  # offset << 2 | kind, elements << 3 | element size
_FAR_POINTER = struct.Struct("<II")  # position << 3 | double << 2 | kind, segment
_TABLE_START = struct.Struct("<II")  # segments - 1, words of the first segment
_UINT16 = struct.Struct("<H")
_WORDS_BIG_ENDIAN = tuple(struct.Struct(f">{count}Q") for count in range(9))
_WORDS_LITTLE_ENDIAN = tuple(struct.Struct(f"<{count}Q") for count in range(9))


class Segments:
    """The unpacked segments of one message, and the number of bytes that may still be read.

    Args:
        content: all segments, one after another.
        bounds: the start and end of each segment in `content`, in bytes.
    """

    __slots__ = ("bounds", "budget", "content")

    def __init__(self, content: bytearray, bounds: list[tuple[int, int]]) -> None:
        self.content = content
        self.bounds = bounds
        self.budget = len(content)  # bytes; the objects of an honest message don't overlap

    def claim(self, bound: tuple[int, int], start: int, size: int) -> None:
        """Reject an object outside its segment, or one that makes the total larger than the message."""
        if start < bound[0] or start + size > bound[1]:
            raise DecodeError("a pointer leads outside its segment")
        self.budget -= size
        if self.budget < 0:
            raise DecodeError("several pointers lead to the same object")

    def land(self, at: int) -> tuple[int, int, tuple[int, int]]:
        """Follow the far pointer at `at`.

        Returns: the position of the pointer that describes the object, the start of the object, and the
        bounds of its segment.
        """
        low, bound = self._far_pointer(at)
        pad = bound[0] + (low >> 3) * WORD_SIZE
        self.claim(bound, pad, 2 * WORD_SIZE if low & _DOUBLE_FAR else WORD_SIZE)
        if not low & _DOUBLE_FAR:
            low = _STRUCT_POINTER.unpack_from(self.content, pad)[0]
            return pad, pad + WORD_SIZE + (low >> 2) * WORD_SIZE, bound
        # The landing pad of a double-far pointer: a far pointer to the object, then one that describes it.
        low, bound = self._far_pointer(pad)
        if low & _DOUBLE_FAR:
            raise DecodeError("a double-far pointer leads to another double-far pointer")
        return pad + WORD_SIZE, bound[0] + (low >> 3) * WORD_SIZE, bound

    def _far_pointer(self, at: int) -> tuple[int, tuple[int, int]]:
        low, segment = _FAR_POINTER.unpack_from(self.content, at)
        if low & 3 != _FAR:
            raise DecodeError("expected a far pointer")
        if segment >= len(self.bounds):
            raise DecodeError("a far pointer leads to a segment that does not exist")
        return low, self.bounds[segment]


class StructReader:
    """One struct; fields and pointers beyond its sections read as zero and null.

    Args:
        segments: the message.
        bound: start and end of the struct's segment, in bytes.
        data: start of the data section, in bytes.
        pointers: end of the data section and start of the pointer section, in bytes.
        end: end of the pointer section, in bytes.

    Source: section 3.2.
    """

    __slots__ = ("_bound", "_data", "_end", "_pointers", "_segments")

    def __init__(
        self, segments: Segments, bound: tuple[int, int], data: int, pointers: int, end: int
    ) -> None:
        self._segments = segments
        self._bound = bound
        self._data = data
        self._pointers = pointers
        self._end = end

    def discriminant(self) -> int:
        """Read the 16 bits at offset 0, the discriminant of every union of the protocol."""
        if self._data == self._pointers:
            return 0
        value: int = _UINT16.unpack_from(self._segments.content, self._data)[0]
        return value

    def fixed_bytes(self, size: int) -> bytes:
        """Read a fixed byte string from the words of this struct, each big endian.

        Args:
            size: bytes, a multiple of 8, at most 64.

        Source: section 3.1.
        """
        count = size // WORD_SIZE
        present = min(count, (self._pointers - self._data) // WORD_SIZE)
        words = _WORDS_LITTLE_ENDIAN[present].unpack_from(self._segments.content, self._data)
        return _WORDS_BIG_ENDIAN[present].pack(*words) + bytes(size - present * WORD_SIZE)

    def struct(self, index: int) -> StructReader:
        """Follow a pointer of this struct to another struct; null is a struct without sections.

        Raises:
            DecodeError: the pointer doesn't lead to a struct inside the message.
        """
        at = self._pointers + index * WORD_SIZE
        if at >= self._end:
            return StructReader(self._segments, self._bound, 0, 0, 0)
        return _read_struct(self._segments, self._bound, at)

    def data(self, index: int) -> bytes:
        """Copy the Data that a pointer of this struct leads to; null is empty.

        Raises:
            DecodeError: the pointer doesn't lead to a list of bytes inside the message.
        """
        at = self._pointers + index * WORD_SIZE
        if at >= self._end:
            return b""
        return _read_data(self._segments, self._bound, at)


def _read_struct(segments: Segments, bound: tuple[int, int], at: int) -> StructReader:
    low, data_words, pointer_count = _STRUCT_POINTER.unpack_from(segments.content, at)
    if low & 3 == _STRUCT:
        if not (low or data_words or pointer_count):
            return StructReader(segments, bound, 0, 0, 0)
        start = at + WORD_SIZE + (low >> 2) * WORD_SIZE
    else:
        at, start, bound = segments.land(at)
        low, data_words, pointer_count = _STRUCT_POINTER.unpack_from(segments.content, at)
        if low & 3 != _STRUCT:
            raise DecodeError("expected a pointer to a struct")
    pointers = start + data_words * WORD_SIZE
    end = pointers + pointer_count * WORD_SIZE
    segments.claim(bound, start, end - start)
    return StructReader(segments, bound, start, pointers, end)


def _read_data(segments: Segments, bound: tuple[int, int], at: int) -> bytes:
    low, elements = _LIST_POINTER.unpack_from(segments.content, at)
    if low & 3 == _LIST:
        start = at + WORD_SIZE + (low >> 2) * WORD_SIZE
    elif not (low or elements):
        return b""
    else:
        at, start, bound = segments.land(at)
        low, elements = _LIST_POINTER.unpack_from(segments.content, at)
    if low & 3 != _LIST or elements & 7 != _BYTE_ELEMENTS:
        raise DecodeError("expected a pointer to a Data")
    size = elements >> 3
    segments.claim(bound, start, size + -size % WORD_SIZE)
    return memoryview(segments.content)[start : start + size].tobytes()


def read_message(data: Buffer, limit: int = MAX_FRAME_SIZE, data_fields: int = 1) -> StructReader:
    """Unpack a message and read its root struct; bytes after its end are ignored.

    Args:
        data: one packed message.
        limit: the maximum unpacked size of all its segments, in bytes.
        data_fields: the number of Data fields; each may unpack to 70 KiB more than its packed size.

    Raises:
        DecodeError: it is not a message, is too large, or is too expensive to unpack.

    Source: sections 3.2, 3.3.
    """
    packed = bytes(data)
    sizes, at = _read_segment_table(packed)
    total = sum(sizes)
    if total > limit:
        raise DecodeError(f"a message unpacks to {total} bytes, over the limit of {limit}")
    if total > max_unpacked_size(len(packed), data_fields):
        raise DecodeError(f"a message of {len(packed)} bytes unpacks to {total}, too many for its size")
    content, _ = unpack(packed, at, total)
    if sizes[0] < WORD_SIZE:
        raise DecodeError("a message without a root pointer")
    bounds = [(end - size, end) for size, end in zip(sizes, accumulate(sizes))]
    segments = Segments(content, bounds)
    segments.claim(bounds[0], 0, WORD_SIZE)  # the root pointer
    return _read_struct(segments, bounds[0], 0)


def _read_segment_table(packed: bytes) -> tuple[list[int], int]:
    """Return the sizes of the segments, in bytes, and the position of the first segment in `packed`.

    The original reads the first word, the rest of the table and the segments separately, and rejects a
    run that crosses these boundaries. So does this function (section 3.3).
    """
    first, at = unpack(packed, 0, WORD_SIZE)
    count, size = _TABLE_START.unpack(first)
    count += 1
    if count == 1:
        return [size * WORD_SIZE], at
    if count > MAX_SEGMENTS:
        raise DecodeError(f"a message of {count} segments")
    rest, at = unpack(packed, at, count // 2 * WORD_SIZE)
    sizes = struct.unpack_from(f"<{count - 1}I", rest)
    return [size * WORD_SIZE, *(more * WORD_SIZE for more in sizes)], at


def segment_table(words: int) -> bytes:
    """Return the segment table of a message with one segment of `words` words."""
    return _TABLE_START.pack(0, words)


def struct_pointer(offset: int, data_words: int, pointer_count: int) -> bytes:
    """Return a pointer to a struct that starts `offset` words after the pointer's end."""
    return _STRUCT_POINTER.pack(offset << 2 | _STRUCT, data_words, pointer_count)


def data_pointer(offset: int, size: int) -> bytes:
    """Return a pointer to a Data of `size` bytes that starts `offset` words after the pointer's end."""
    return _LIST_POINTER.pack(offset << 2 | _LIST, size << 3 | _BYTE_ELEMENTS)


def discriminant_word(value: int) -> bytes:
    """Return the data section of a struct whose only data is a union's discriminant."""
    return value.to_bytes(WORD_SIZE, "little")


def fixed_words(value: bytes) -> bytes:
    """Return the words of a fixed byte string."""
    count = len(value) // WORD_SIZE
    return _WORDS_LITTLE_ENDIAN[count].pack(*_WORDS_BIG_ENDIAN[count].unpack(value))
