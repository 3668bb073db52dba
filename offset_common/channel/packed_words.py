"""Walk packed words without unpacking them.

Each function takes a packed message and the position of a word, and returns the position of the next word.
If the message is cut short, it raises IndexError or struct.error, or returns a position after the end.

Source: section 3 of docs/protocol.md.
"""

from __future__ import annotations

import struct
from typing import Union

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.wire.packing import (
    MAX_RUN,
    PACKED_RUN_SIZE,
    PACKED_SIZES,
    WORD_SIZE,
    count_full_runs,
    unpack_word,
)

Packed = Union[bytes, bytearray]

# Halves of the words that are pointers to lists.
BYTES = 2  # the low three bits of a list pointer's high half: a list of bytes
NEXT = 1  # the low half of a pointer to a list that follows the pointer

_MAX_WORDS = MAX_FRAME_SIZE // WORD_SIZE
_MAX_STEPS = 300  # in one object; 1 MiB of random bytes takes 120
_HALVES = struct.Struct("<II")


class UnknownLayoutError(Exception):
    """The message has none of the layouts that are recognized here."""


def read_table(p: Packed) -> tuple[tuple[int, ...], int]:
    """Return the number of words in each segment, and the position of the first segment."""
    if p[0] == 0x30:
        return (p[1] | p[2] << 8,), 3
    if p[0] == 0x10:
        return (p[1],), 2
    more, words, at = read_word(p, 0)
    sizes: tuple[int, ...] = (words,)
    if more:
        second, third, at = read_word(p, at)
        if more == 2:
            sizes = (words, second, third)
        elif more == 1 and not third:
            sizes = (words, second)
        else:
            raise UnknownLayoutError
    if sum(sizes) > _MAX_WORDS:
        raise UnknownLayoutError
    return sizes, at


def read_word(p: Packed, at: int) -> tuple[int, int, int]:
    """Return both halves of the packed word at `at`, and the position of the next word."""
    tag = p[at]
    if tag == 0x31:
        return p[at + 1], p[at + 2] | p[at + 3] << 8, at + 4
    if tag == 0x11:
        return p[at + 1], p[at + 2], at + 3
    if tag == 0x71:
        return p[at + 1], p[at + 2] | p[at + 3] << 8 | p[at + 4] << 16, at + 5
    if tag == 0x03:
        return p[at + 1] | p[at + 2] << 8, 0, at + 3
    low, high = _HALVES.unpack(unpack_word(p, at))
    at += PACKED_SIZES[tag]
    if tag == 0x00 or tag == 0xFF:
        if p[at]:
            raise UnknownLayoutError  # a run that covers more than this word
        at += 1
    return low, high, at


def list_length(high: int) -> int:
    """Return the size of a list in bytes, from the high half of its pointer."""
    if high & 7 != BYTES:
        raise UnknownLayoutError
    return high >> 3


def read_landing_pad(p: Packed, at: int, words: int) -> tuple[int, int]:
    """Read the landing pad of a segment of `words` words; return the list's size and position."""
    low, high, at = read_word(p, at)
    length = list_length(high)
    if low != NEXT or words != 1 + ((length + 7) >> 3):
        raise UnknownLayoutError
    return length, at


def skip_words(p: Packed, at: int, words: int) -> int:
    """Return the position after `words` packed words."""
    for _ in range(_MAX_STEPS):
        if words <= 0:
            break
        tag = p[at]
        if tag == 0xFF:
            if words >= 2 * MAX_RUN and p[at + 9] == 0xFF:
                runs = count_full_runs(p, at, words * WORD_SIZE)
                at += runs * PACKED_RUN_SIZE
                words -= runs * MAX_RUN
            else:
                more = p[at + 9]
                at += 10 + 8 * more
                words -= 1 + more
        elif tag:
            at += PACKED_SIZES[tag]
            words -= 1
        else:
            words -= 1 + p[at + 1]
            at += 2
    if words:
        raise UnknownLayoutError  # a run crosses into another object, or there are too many runs
    return at
