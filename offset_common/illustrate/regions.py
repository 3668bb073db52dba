"""Named pieces of a byte string, and what packing adds to a Cap'n Proto message.

Source: sections 3.2 and 3.3 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from offset_common.wire.packing import WORD_SIZE


@dataclass(frozen=True)
class Region:
    """Bytes that belong together.

    Args:
        start: the position of the first byte.
        end: the position after the last byte.
        name: the name of a protocol field, or a description.
        kind: "length", "nonce", "ciphertext", "tag", "packing", "pointer", "union", "field" or "unused".
        note: what they mean here, in a sentence.
    """

    start: int
    end: int
    name: str
    kind: str
    note: str = ""


@dataclass(frozen=True)
class Unpacked:
    """A packed message, word by word.

    Args:
        words: the unpacked bytes.
        origin: for each of them, its position in the packed bytes; None for an omitted zero byte.
        control: the tags and counts, as regions of the packed bytes.
    """

    words: bytes
    origin: list[Optional[int]]
    control: list[Region]


def unpack_with_origin(packed: bytes) -> Unpacked:
    """Unpack a valid message, and record where each byte comes from. Any bytes may follow the message."""
    words = bytearray()
    origin: list[Optional[int]] = []
    control: list[Region] = []
    at = 0

    def take(count: int) -> None:
        nonlocal at
        present = packed[at : at + count]
        words.extend(present)
        origin.extend(range(at, at + len(present)))
        at += len(present)

    while at < len(packed):
        tag = packed[at]
        control.append(Region(at, at + 1, f"tag 0x{tag:02x}", "packing", _tag_note(tag)))
        at += 1
        for bit in range(WORD_SIZE):
            if tag >> bit & 1:
                take(1)
            else:
                words.append(0)
                origin.append(None)
        if tag in (0x00, 0xFF) and at < len(packed):
            count = packed[at]
            control.append(Region(at, at + 1, f"count {count}", "packing", _count_note(tag, count)))
            at += 1
            if tag:
                take(count * WORD_SIZE)
            else:
                words.extend(bytes(count * WORD_SIZE))
                origin.extend([None] * (count * WORD_SIZE))
    return Unpacked(bytes(words), origin, control)


def _tag_note(tag: int) -> str:
    if tag == 0x00:
        return "All eight bytes of the word are zero, so only a count follows."
    if tag == 0xFF:
        return "All eight bytes of the word follow, then a count."
    present = [str(bit) for bit in range(WORD_SIZE) if tag >> bit & 1]
    if len(present) == 1:
        return f"In binary {tag:08b}: byte {present[0]} of the word follows, the other seven are zero."
    follow = f"bytes {', '.join(present[:-1])} and {present[-1]} of the word follow"
    missing = WORD_SIZE - len(present)
    rest = "the other one is" if missing == 1 else f"the other {_NUMBERS[missing]} are"
    return f"In binary {tag:08b}: {follow}, {rest} zero."


_NUMBERS = ("none", "one", "two", "three", "four", "five", "six", "seven")


def _count_note(tag: int, count: int) -> str:
    if count == 0:
        return "No more words like this one follow; the next byte is a tag."
    if tag == 0x00:
        return (
            "One more word of zeros." if count == 1 else f"{count} more words of zeros, which are not sent."
        )
    size = f"({count * WORD_SIZE} bytes)"
    if count == 1:
        return f"The next word {size} follows as it is, without a tag."
    return f"The next {count} words {size} follow as they are, without tags."


def fill_gaps(regions: list[Region], size: int, gap: Region) -> list[Region]:
    """Return regions in order, with copies of `gap` between them."""
    filled: list[Region] = []
    at = 0
    for region in sorted(regions, key=lambda each: (each.start, each.end)):
        if region.start < at:
            continue  # an object that two pointers share is shown once
        if region.start > at:
            filled.append(Region(at, region.start, gap.name, gap.kind, gap.note))
        if region.end > region.start:
            filled.append(region)
        at = max(at, region.end)
    if at < size:
        filled.append(Region(at, size, gap.name, gap.kind, gap.note))
    return filled
