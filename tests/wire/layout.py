"""Messages built word by word, with any segments and pointers, valid or not."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from enum import Enum

from offset_common.wire.packing import pack

STRUCT, LIST, FAR, DOUBLE_FAR, OTHER = 0, 1, 2, 6, 3


class Place(Enum):
    """Where an object goes, seen from the pointer to it."""

    NEAR = "the same segment"
    FAR = "another segment, after a landing pad"
    DOUBLE_FAR = "another segment, with its landing pad in a third one"


def word(low: int, high: int = 0) -> bytes:
    """Return a word made of two halves."""
    return struct.pack("<II", low & 0xFFFFFFFF, high)


def near(kind: int, offset: int, high: int) -> bytes:
    """Return a pointer to an object `offset` words after the pointer."""
    return word(offset << 2 | kind, high)


def sections(data_words: int, pointers: int) -> int:
    """Return the upper half of a pointer to a struct."""
    return data_words | pointers << 16


def elements(count: int, size: int = 2) -> int:
    """Return the upper half of a pointer to a list; element size 2 is bytes."""
    return count << 3 | size


def far(segment: int, position: int, kind: int = FAR) -> bytes:
    """Return a far pointer to the word at `position` of a segment."""
    return word(position << 3 | kind, segment)


def stream(*segments: bytes) -> bytes:
    """Return segments with their segment table."""
    sizes = [len(segment) // 8 for segment in segments]
    table = struct.pack(f"<{1 + len(sizes)}I", len(sizes) - 1, *sizes)
    return table + bytes(-len(table) % 8) + b"".join(segments)


def packed(*segments: bytes) -> bytes:
    """Pack a segment table and segments, each separately."""
    table = stream(*segments)[: (len(segments) // 2 + 1) * 8]
    return pack(table) + b"".join(map(pack, segments))


def channel_message(user: bytes, size: int, padding: bytes = b"", padding_size: int = 0) -> bytes:
    """Pack a ChannelMessage in one segment around packed user data of `size` bytes, and packed padding."""
    words, padding_words = -(-size // 8), -(-padding_size // 8)
    root = near(STRUCT, 0, sections(0, 2)) + near(LIST, 1, elements(padding_size))
    content = word(1) + near(LIST, 0, elements(size))
    head = pack(root + near(STRUCT, padding_words, sections(1, 1)))
    return pack(word(0, 5 + padding_words + words)) + head + padding + pack(content) + user


def scatter(one_segment: bytes, places: Iterable[Place]) -> list[bytes]:
    """Distribute the objects of a one-segment message over several segments.

    Args:
        one_segment: segment table and segment of a message of structs and Data.
        places: where each object goes, in the order of the tree; NEAR when used up.
    """
    scattering = _Scattering(one_segment[8:], places)
    scattering.move(0, 0, 0)
    return [bytes(segment) for segment in scattering.segments]


class _Scattering:
    def __init__(self, source: bytes, places: Iterable[Place]) -> None:
        self.source = source
        self.places = iter(places)
        self.segments = [bytearray(8)]

    def move(self, source_at: int, segment: int, at: int) -> None:
        """Copy the object that a pointer of the source leads to, and write the pointer to the copy."""
        low, high = struct.unpack_from("<iI", self.source, source_at)
        if not (low or high):
            return
        kind = low & 3
        target = source_at + 8 + (low >> 2) * 8
        data_words, pointers = (high & 0xFFFF, high >> 16) if kind == STRUCT else (-(-(high >> 3) // 8), 0)
        place = next(self.places, Place.NEAR)
        home = segment if place is Place.NEAR else self.open()
        if place is Place.FAR:
            self.segments[home] += near(kind, 0, high)
        if place is Place.DOUBLE_FAR:
            self.segments[home] += bytes(8)  # the oracle does not see a segment without words
        start = len(self.segments[home])
        self.segments[home] += self.source[target : target + 8 * (data_words + pointers)]
        self.segments[segment][at : at + 8] = self.pointer(place, (kind, high), at, home, start)
        for offset in range(8 * data_words, 8 * (data_words + pointers), 8):
            self.move(target + offset, home, start + offset)

    def open(self) -> int:
        self.segments.append(bytearray())
        return len(self.segments) - 1

    def pointer(self, place: Place, tag: tuple[int, int], at: int, home: int, start: int) -> bytes:
        kind, high = tag
        if place is Place.NEAR:
            return near(kind, (start - at) // 8 - 1, high)
        if place is Place.FAR:
            return far(home, start // 8 - 1)
        pad = self.open()
        self.segments[pad] += far(home, start // 8) + near(kind, 0, high)
        return far(pad, 0, DOUBLE_FAR)
