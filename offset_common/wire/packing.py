"""Cap'n Proto's packed encoding: zero bytes left out, eight bytes at a time.

A word becomes a tag, whose bit i says whether byte i is there, and the bytes that are there. Two tags
are followed by a count byte: 0x00 by the number of further zero words, 0xff (after its eight bytes) by
the number of further words that stand as they are.
"""

from __future__ import annotations

import re
import struct

from offset_common.errors import DecodeError

WORD_SIZE = 8  # bytes
MAX_RUN = 256  # words of the longest run: the tag's own and 255 more

# What one tag can become at most: two bytes, 0x00 and its count, stand for a whole run of zero words.
_MAX_EXPANSION = MAX_RUN * WORD_SIZE // 2

PACKED_SIZES = tuple(1 + bin(tag).count("1") for tag in range(256))
"""The packed bytes of a single word, by its tag; where a count follows, that is one more."""

_MANY_ZEROS = bytes(16)
_ZERO_BYTES = re.compile(rb"\x00*")
_ZERO_RUNS = re.compile(rb"\x00{64,}")  # shorter ones `pack` finds itself

_ZEROS = tuple(bytes(count) for count in range(WORD_SIZE))
_POSITIONS = tuple(tuple(bit for bit in range(8) if tag >> bit & 1) for tag in range(256))
_NONZERO_TO_ONE = b"\x00" + b"\x01" * 255
_GATHER_BITS = 0x0102040810204080  # times a word of eight 0 or 1 bytes: bit i of its top byte is byte i


def pack(words: bytes) -> bytes:
    """Pack words that are mostly zero bytes, such as pointers.

    Args:
        words: whole words, in bytes a multiple of 8.

    Source: section 3.3; every 0x00 and 0xff tag has its count byte, also at the very end.
    """
    flags = struct.unpack(f"<{len(words) // WORD_SIZE}Q", words.translate(_NONZERO_TO_ONE))
    tags = [flag * _GATHER_BITS >> 56 & 0xFF for flag in flags]
    packed = bytearray()
    at = 0
    while at < len(tags):
        tag = tags[at]
        start = at * WORD_SIZE
        packed.append(tag)
        packed += words[start : start + WORD_SIZE].translate(None, b"\x00")
        at += 1
        if tag in (0x00, 0xFF):
            run = _equal_tags(tags, at, tag)
            packed.append(run)
            if tag:
                packed += words[start + WORD_SIZE : start + WORD_SIZE * (1 + run)]
            at += run
    return bytes(packed)


def pack_word(word: bytes) -> bytes:
    """Pack one word of which some bytes are zero and some are not: a pointer, or a segment table."""
    flags = int.from_bytes(word.translate(_NONZERO_TO_ONE), "little")
    return bytes((flags * _GATHER_BITS >> 56 & 0xFF,)) + word.translate(None, b"\x00")


def _equal_tags(tags: list[int], at: int, tag: int) -> int:
    """Count the tags from `at` on that equal `tag`, up to what a count byte can say."""
    end = at
    limit = min(len(tags), at + MAX_RUN - 1)
    while end < limit and tags[end] == tag:
        end += 1
    return end - at


def pack_literal(content: bytes) -> bytes:
    """Pack bytes as runs that stand as they are, without looking at them.

    Args:
        content: any number of bytes; zero bytes fill the last word.

    Source: section 3.3, the choice for a large Data.
    """
    content += _ZEROS[-len(content) % WORD_SIZE]
    if len(content) <= MAX_RUN * WORD_SIZE:
        return content and b"\xff%b%c%b" % (
            content[:WORD_SIZE],
            len(content) // WORD_SIZE - 1,
            content[WORD_SIZE:],
        )
    parts: list[bytes] = []
    for start in range(0, len(content), MAX_RUN * WORD_SIZE):
        run = content[start : start + MAX_RUN * WORD_SIZE]
        parts += (b"\xff", run[:WORD_SIZE], bytes((len(run) // WORD_SIZE - 1,)), run[WORD_SIZE:])
    return b"".join(parts)


def pack_sparse(content: bytes) -> bytes:
    """Pack bytes that may be zeros mostly, in time for those that are not.

    Args:
        content: any number of bytes; zero bytes fill the last word.

    Source: section 3.3.
    """
    content += bytes(-len(content) % WORD_SIZE)
    packed = bytearray()
    at = 0
    for zeros in _ZERO_RUNS.finditer(content):
        start = -(-zeros.start() // WORD_SIZE) * WORD_SIZE
        packed += pack(content[at:start])
        at = zeros.end() // WORD_SIZE * WORD_SIZE
        full, left = divmod((at - start) // WORD_SIZE, MAX_RUN)
        packed += bytes((0, MAX_RUN - 1)) * full
        if left:
            packed += bytes((0, left - 1))
    return bytes(packed + pack(content[at:]))


def unpack(packed: bytes, start: int, size: int) -> tuple[bytearray, int]:
    """Unpack exactly `size` bytes, which must end where a word or a run of words ends.

    Args:
        packed: the packed bytes; what follows the wanted ones is not looked at.
        start: where to begin in `packed`, in bytes.
        size: how many unpacked bytes are wanted, a multiple of 8; the caller has bounded it.

    Returns: the unpacked bytes, and the position in `packed` after them.

    Raises:
        DecodeError: `packed` ends too early, or a run crosses the end of what is wanted.

    Source: section 3.3.
    """
    if size > (len(packed) - start) * _MAX_EXPANSION:
        raise DecodeError("the packed bytes cannot hold as much as their segment table says")
    words = bytearray(size)
    try:
        end, at = _unpack_into(words, packed, start)
    except IndexError:
        raise DecodeError("the packed bytes end in the middle of a word") from None
    if at > len(packed):
        raise DecodeError("the packed bytes end in the middle of a run")
    if end != size:
        raise DecodeError("a run of packed words crosses the end of its part of the message")
    return words, at


def _unpack_into(words: bytearray, packed: bytes, at: int) -> tuple[int, int]:
    """Fill `words`, zero at first, from `packed[at:]`; tell how far the last run goes in both.

    The hot loop of every decode, hence one function. A run that crosses the end of either changes the
    size of `words`; the caller sees it by the positions, and drops them.
    """
    end = 0
    size = len(words)
    while end < size:
        tag = packed[at]
        at += 1
        if tag == 0xFF:
            run = packed[at + WORD_SIZE] * WORD_SIZE
            words[end : end + WORD_SIZE] = packed[at : at + WORD_SIZE]
            at += WORD_SIZE + 1
            end += WORD_SIZE
            if run:
                words[end : end + run] = packed[at : at + run]
                at += run
                end += run
        elif tag:
            for position in _POSITIONS[tag]:
                words[end + position] = packed[at]
                at += 1
            end += WORD_SIZE
        elif not packed.startswith(_MANY_ZEROS, at):
            end += (packed[at] + 1) * WORD_SIZE
            at += 1
        else:
            # Zero words one by one, maybe packed once more around this: nobody shall pay for each of them.
            run = _count_zero_pairs(packed, at - 1, at - 1 + (size - end) // WORD_SIZE * 2)
            end += run * WORD_SIZE
            at += 2 * run - 1
    return end, at


def _count_zero_pairs(packed: bytes, start: int, end: int) -> int:
    """Count the pairs of zero bytes with which `packed[start:end]` begins."""
    match = _ZERO_BYTES.match(packed, start, end)
    assert match is not None
    return (match.end() - start) // 2
