"""Cap'n Proto's packed encoding, which leaves out zero bytes.

A word becomes a tag, whose bit i is set if byte i is not zero, and its nonzero bytes. Two tags have a count
byte: after 0x00 comes the number of further zero words; after 0xff and its eight bytes, the number of
further words, which follow unpacked.
"""

from __future__ import annotations

import functools
import re
import struct
from typing import Union

from offset_common.errors import DecodeError

WORD_SIZE = 8  # bytes
MAX_RUN = 256  # words of the longest run: the tag's own and 255 more

# Limits for unpacking a peer's bytes. They admit any Data of up to 64 KiB, even once it has been packed and
# is the content of another Data: packing adds at most 1/16.
DATA_ALLOWANCE = 70 * 1024  # bytes
MAX_RUNS = 9_216  # of a message: 8,704 for such a Data, and some for padding; a run takes about 0.3 us

PACKED_SIZES = tuple(1 + bin(tag).count("1") for tag in range(256))
"""The packed size of a word by its tag, without the count byte."""

_ZERO_RUNS = re.compile(rb"\x00{64,}")  # `pack` handles shorter runs

_RUN_SIZE = MAX_RUN * WORD_SIZE  # bytes
PACKED_RUN_SIZE = _RUN_SIZE + 2  # of the longest run, with its tag and count
_RUN = struct.Struct(f"{WORD_SIZE}s{_RUN_SIZE - WORD_SIZE}s")  # the words before and after the count byte
_PACKED_RUN = struct.Struct(f"x{WORD_SIZE}sx{_RUN_SIZE - WORD_SIZE}s")
_SEVERAL_RUNS = 4 * _RUN_SIZE  # bytes; from this size on, it pays to look for consecutive full runs

_ZEROS = tuple(bytes(count) for count in range(WORD_SIZE))
# By tag, with adjacent bytes grouped: read the bytes that are present; write them with zero bytes between.
_GROUPS = tuple(re.findall("1+|0+", f"{tag:08b}"[::-1]) for tag in range(256))
_READ_PRESENT = tuple(
    struct.Struct("".join(f"{len(group)}s" for group in groups if group[0] == "1")).unpack_from
    for groups in _GROUPS
)
_WRITE_WORD = tuple(
    struct.Struct("".join(f"{len(group)}{'s' if group[0] == '1' else 'x'}" for group in groups)).pack
    for groups in _GROUPS
)
_NONZERO_TO_ONE = b"\x00" + b"\x01" * 255
_GATHER_BITS = 0x0102040810204080  # a word of bytes 0 and 1, times this: bit i of the top byte is byte i


def pack(words: bytes) -> bytes:
    """Pack words that are mostly zero bytes, such as pointers.

    Args:
        words: a multiple of 8 bytes.

    Source: section 3.3; every 0x00 and 0xff tag has its count byte, even at the very end.
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


@functools.lru_cache(maxsize=1024)  # most messages have the same few pointers
def pack_word(word: bytes) -> bytes:
    """Pack one word that has zero and nonzero bytes, such as a pointer or a segment table."""
    flags = int.from_bytes(word.translate(_NONZERO_TO_ONE), "little")
    return bytes((flags * _GATHER_BITS >> 56 & 0xFF,)) + word.translate(None, b"\x00")


def _equal_tags(tags: list[int], at: int, tag: int) -> int:
    """Count the tags from `at` on that equal `tag`, up to 255."""
    end = at
    limit = min(len(tags), at + MAX_RUN - 1)
    while end < limit and tags[end] == tag:
        end += 1
    return end - at


def pack_literal(content: bytes) -> bytes:
    """Pack bytes as literal runs, without inspecting them.

    Args:
        content: any number of bytes; zero bytes fill the last word.

    Source: section 3.3, the choice for large Data.
    """
    if len(content) > _RUN_SIZE:
        return b"".join(literal_runs(content))
    content += _ZEROS[-len(content) % WORD_SIZE]
    return content and b"\xff%b%c%b" % (
        content[:WORD_SIZE],
        len(content) // WORD_SIZE - 1,
        content[WORD_SIZE:],
    )


def literal_runs(content: bytes) -> list[bytes]:
    """Return the result of `pack_literal` in pieces, which saves a copy of large content."""
    end = len(content) // _RUN_SIZE * _RUN_SIZE
    pieces = [
        piece
        for first, others in _RUN.iter_unpack(memoryview(content)[:end])
        for piece in (b"\xff", first, b"\xff", others)
    ]
    rest = content[end:]
    if rest:
        pieces.append(pack_literal(rest))
    return pieces


def pack_sparse(content: bytes) -> bytes:
    """Pack bytes that may be mostly zero; long runs of zeros take little time.

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


def unpack_word(packed: Union[bytes, bytearray], at: int) -> bytes:
    """Unpack the word at `at`, without its count byte; raises IndexError or struct.error."""
    tag = packed[at]
    return _WRITE_WORD[tag](*_READ_PRESENT[tag](packed, at + 1))


def _unpack_full_runs(packed: bytes, at: int, size: int, words: bytearray) -> int:
    """Unpack consecutive runs of full length, starting at `at`; see `unpack`."""
    end = at + count_full_runs(packed, at, size - len(words)) * PACKED_RUN_SIZE
    if end > len(packed):
        raise IndexError
    for first, others in _PACKED_RUN.iter_unpack(memoryview(packed)[at:end]):
        words += first
        words += others
    return end


def count_full_runs(packed: Union[bytes, bytearray], at: int, size: int) -> int:
    """Count the consecutive runs of full length from `at` on, within the next `size` unpacked bytes.

    Their tags and counts are at regular distances, so two slices extract them. The last run may be cut short.
    """
    end = at + size // _RUN_SIZE * PACKED_RUN_SIZE
    tags, counts = packed[at:end:PACKED_RUN_SIZE], packed[at + 9 : end : PACKED_RUN_SIZE]
    return min(len(tags) - len(tags.lstrip(b"\xff")), len(counts) - len(counts.lstrip(b"\xff")))


def max_unpacked_size(packed_size: int, data_fields: int = 1) -> int:
    """Return the maximum unpacked size of a packed message; larger messages are rejected.

    Args:
        packed_size: the packed size of the message, in bytes.
        data_fields: the number of its Data fields; each may unpack to 70 KiB more than its packed size.
    """
    return packed_size + data_fields * DATA_ALLOWANCE


def unpack(packed: bytes, start: int, size: int) -> tuple[bytearray, int]:
    """Unpack exactly `size` bytes, which must end at the end of a word or of a run.

    Args:
        packed: the packed bytes; bytes after the wanted ones are not read.
        start: the position in `packed` to start at.
        size: the number of unpacked bytes, a multiple of 8; the caller has bounded it.

    Returns: the unpacked bytes, and the position in `packed` after them.

    Raises:
        DecodeError: `packed` ends too early, a run crosses the end of the wanted bytes, or there are over
            9,216 runs and single words.

    Source: section 3.3.
    """
    words = bytearray()
    at = start
    try:
        # Every decode spends most of its time in this loop.
        for _ in range(MAX_RUNS):
            if len(words) >= size:
                break
            tag = packed[at]
            if tag == 0xFF and packed[at + 9] == 0xFF and size - len(words) >= _SEVERAL_RUNS:
                at = _unpack_full_runs(packed, at, size, words)
            elif tag == 0xFF:
                end = at + 10 + packed[at + 9] * WORD_SIZE
                words += packed[at + 1 : at + 9]
                if end > at + 10:
                    words += packed[at + 10 : end]
                at = end
            elif tag:
                words += _WRITE_WORD[tag](*_READ_PRESENT[tag](packed, at + 1))
                at += PACKED_SIZES[tag]
            else:
                words += bytes(WORD_SIZE + packed[at + 1] * WORD_SIZE)
                at += 2
    except (IndexError, struct.error):
        raise DecodeError("the packed bytes end too early") from None
    if at > len(packed):
        raise DecodeError("the packed bytes end too early")
    if len(words) < size:
        raise DecodeError(f"over {MAX_RUNS} runs of packed words")
    if len(words) > size:
        raise DecodeError("a run of packed words crosses the end of its part of the message")
    return words, at
