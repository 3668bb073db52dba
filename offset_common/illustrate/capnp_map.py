"""Name every byte of a Cap'n Proto message: the segment table, pointers, unions and fields.

The message has been decoded before, so it is valid; a pointer that leads outside it is shown, not followed.

Source: sections 3.1 and 3.2 of docs/protocol.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Optional

from offset_common.illustrate.regions import Region, Unpacked, fill_gaps, unpack_with_origin
from offset_common.illustrate.schema import MESSAGES, Data, Fixed, Struct
from offset_common.wire.packing import WORD_SIZE

_STRUCT, _LIST, _FAR = 0, 1, 2  # the two low bits of a pointer
_DOUBLE_FAR = 4


@dataclass(frozen=True)
class Field:
    """A field and its value.

    Args:
        name: its name in the protocol.
        positions: the position of each byte of the value in the unpacked bytes.
        value: the bytes, in the order of the protocol.
    """

    name: str
    positions: list[int]
    value: bytes


@dataclass(frozen=True)
class MessageMap:
    """A message with all its bytes named.

    Args:
        unpacked: the bytes, and where they are in the packed message.
        regions: the regions of the unpacked bytes, in order, without gaps.
        fields: the fields, in the order of the schema.
    """

    unpacked: Unpacked
    regions: list[Region]
    fields: list[Field]


def map_message(name: str, packed: bytes) -> MessageMap:
    """Name the bytes of a packed message.

    Args:
        name: the name of its root struct, a key of MESSAGES.
        packed: a valid message.
    """
    unpacked = unpack_with_origin(packed)
    walk = _Walk(unpacked.words)
    walk.root(MESSAGES[name])
    gap = Region(0, 0, "filling", "unused", "Zero bytes that complete the last word.")
    regions = fill_gaps(walk.regions, len(unpacked.words), gap)
    return MessageMap(unpacked, regions, walk.fields)


class _Walk:
    """Follows the pointers of one message."""

    def __init__(self, words: bytes) -> None:
        self.regions: list[Region] = []
        self.fields: list[Field] = []
        self._words = words
        self._bounds = self._segment_table()

    def root(self, kind: Struct) -> None:
        """Follow the root pointer."""
        self._struct(self._bounds[0][0], 0, kind, "root pointer")

    def _segment_table(self) -> list[tuple[int, int]]:
        """Name the segment table; return the bounds of the segments, in bytes."""
        count = int.from_bytes(self._words[:4], "little") + 1
        sizes = struct.unpack_from(f"<{count}I", self._words, 4)
        start = (count // 2 + 1) * WORD_SIZE
        listed = " and ".join(f"{size}" for size in sizes)
        note = f"The number of segments minus one ({count - 1}), and their sizes in words: {listed}."
        self.regions.append(Region(0, start, "segment table", "pointer", note))
        bounds = []
        for size in sizes:
            bounds.append((start, start + size * WORD_SIZE))
            start += size * WORD_SIZE
        return bounds

    def _struct(self, at: int, segment: int, kind: Struct, name: str) -> None:
        found = self._follow(at, segment, name)
        if found is None:
            return
        start, segment, data_words, pointer_count = found
        choice = self._union(start, data_words, kind)
        pointers = kind.pointers.get(choice, kind.pointers.get(None, ()))
        for index in range(pointer_count):
            pointer = start + (data_words + index) * WORD_SIZE
            if index >= len(pointers):
                self._unused_pointer(pointer)
                continue
            target = pointers[index]
            if isinstance(target, Struct):
                self._struct(pointer, segment, target, f"pointer to {target.field}")
            elif isinstance(target, Fixed):
                self._fixed(pointer, segment, target)
            else:
                self._data(pointer, segment, target)

    def _union(self, start: int, data_words: int, kind: Struct) -> Optional[int]:
        """Name the data section, whose first 16 bits are the choice in a union; return the choice."""
        choice = None
        if kind.union:
            choice = int.from_bytes(self._words[start : start + 2], "little") if data_words else 0
            label = kind.union.get(choice, "unknown")
            if data_words:
                name = kind.union_name or kind.name
                note = f"The first two bytes are the choice in the union {name}: {choice} is {label}."
                self._add(start, WORD_SIZE, f"{name}: {label}", "union", note)
                start, data_words = start + WORD_SIZE, data_words - 1
        if data_words:
            self._add(start, data_words * WORD_SIZE, "data section", "unused", "Not used by this protocol.")
        return choice

    def _fixed(self, at: int, segment: int, kind: Fixed) -> None:
        outer = self._follow(at, segment, f"pointer to {kind.name}")
        if outer is None or not outer[3]:
            return
        start, segment, data_words, _ = outer
        inner = self._follow(start + data_words * WORD_SIZE, segment, f"inner of {kind.name}")
        if inner is None:
            return
        words_at, _, count, _ = inner
        size = min(count * WORD_SIZE, kind.size)
        note = (
            f"{kind.size} bytes, as {kind.size // WORD_SIZE} numbers: the 8 bytes of each word are reversed."
        )
        self._add(words_at, size, kind.name, "field", note)
        positions = [words_at + at // WORD_SIZE * WORD_SIZE + 7 - at % WORD_SIZE for at in range(size)]
        self.fields.append(Field(kind.name, positions, bytes(self._words[each] for each in positions)))

    def _data(self, at: int, segment: int, kind: Data) -> None:
        found = self._follow(at, segment, f"pointer to {kind.name}")
        start, _, size, _ = found or (0, 0, 0, 0)
        self._add(start, size, kind.name, "field", f"{size} bytes, as they are.")
        self.fields.append(
            Field(kind.name, list(range(start, start + size)), self._words[start : start + size])
        )

    def _follow(self, at: int, segment: int, name: str) -> Optional[tuple[int, int, int, int]]:
        """Name the pointer at `at`; return the start and segment of its target, and its two sizes.

        The sizes of a struct are its data words and its pointers; of a list, its bytes and 0.
        """
        low, high = struct.unpack_from("<iI", self._words, at)
        if not (low or high):
            self._add(at, WORD_SIZE, f"{name}: null", "pointer", "Null: there is no value.")
            return None
        base = at + WORD_SIZE
        if low & 3 == _FAR:
            landing, segment = self._far(at, name)
            if landing is None:
                return None
            at, base = landing
            low, high = struct.unpack_from("<iI", self._words, at)
        offset = low >> 2
        start = base + offset * WORD_SIZE
        if low & 3 == _STRUCT:
            data_words, pointer_count = high & 0xFFFF, high >> 16
            what = f"a struct of {_count(data_words, 'data word')} and {_count(pointer_count, 'pointer')}"
            size, found = (
                (data_words + pointer_count) * WORD_SIZE,
                (start, segment, data_words, pointer_count),
            )
        else:
            what, size, found = f"a list of {high >> 3} bytes", high >> 3, (start, segment, high >> 3, 0)
        where = f"{_count(offset, 'word')} after this one" if offset else "right after this word"
        self._add(at, WORD_SIZE, name, "pointer", f"Points to {what}, {where}.")
        low_bound, high_bound = self._bounds[segment]
        return found if low_bound <= start and start + size <= high_bound else None

    def _far(self, at: int, name: str) -> tuple[Optional[tuple[int, int]], int]:
        """Name a far pointer and its landing pad; return where the target is described, and its segment.

        The first value is the position of the pointer that describes the target, and the position that
        its offset counts from. It is None if there is no such segment.
        """
        low, number = struct.unpack_from("<II", self._words, at)
        position = low >> 3
        note = f"A far pointer: continues at word {position} of segment {number}; the first segment was full."
        self._add(at, WORD_SIZE, f"{name} (far)", "pointer", note)
        if number >= len(self._bounds):
            return None, 0
        pad = self._bounds[number][0] + position * WORD_SIZE
        if not low & _DOUBLE_FAR:
            return (pad, pad + WORD_SIZE), number
        low, number = struct.unpack_from("<II", self._words, pad)
        note = f"A landing pad: the target starts at word {low >> 3} of segment {number}."
        self._add(pad, WORD_SIZE, f"{name} (landing pad)", "pointer", note)
        start = self._bounds[number][0] + (low >> 3) * WORD_SIZE
        return (pad + WORD_SIZE, start), number

    def _unused_pointer(self, at: int) -> None:
        null = not any(self._words[at : at + WORD_SIZE])
        note = "Null: this choice of the union has no value." if null else "Not used by this protocol."
        self._add(at, WORD_SIZE, "pointer: null" if null else "pointer", "pointer", note)

    def _add(self, start: int, size: int, name: str, kind: str, note: str) -> None:
        self.regions.append(Region(start, start + size, name, kind, note))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
