"""Unpacking against a simple one, byte for byte; whatever was unpacked packs and unpacks to the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Optional

from offset_common.errors import DecodeError
from offset_common.wire.packing import WORD_SIZE, pack, pack_literal, pack_sparse, pack_word, unpack
from tests.fuzz import vectors

MAX_SIZE = 4096
_SIZE_BYTES = 2  # of each input: how many words are wanted


def seeds() -> Iterator[bytes]:
    """Recorded messages, with the number of words behind their segment table."""
    handshakes = [payload for payloads in vectors.handshakes() for payload in payloads[1:]]
    for packed in (*handshakes, *vectors.plaintexts(), *vectors.user_data()):
        table, at = unpack(packed, 0, WORD_SIZE)
        yield int.from_bytes(table[4:], "little").to_bytes(4, "little")[:_SIZE_BYTES] + packed[at:]
    for words in (bytes(8 * 300), b"\xff" * 8 * 300, bytes(range(256)), bytes(7) + b"\x01"):
        yield (len(words) // WORD_SIZE).to_bytes(_SIZE_BYTES, "little") + pack(words)


def run(data: bytes) -> None:
    """Unpack what is behind the wanted number of words, and pack words."""
    wanted = int.from_bytes(data[:_SIZE_BYTES], "little") * WORD_SIZE
    packed = data[_SIZE_BYTES:]
    expected = _unpack_simply(packed, wanted)
    try:
        words, end = unpack(packed, 0, wanted)
    except DecodeError:
        assert expected is None, "refused, though it can be unpacked"
    else:
        assert (bytes(words), end) == expected
        _check_packing(bytes(words))
    _check_packing(data + bytes(-len(data) % WORD_SIZE))


def _check_packing(words: bytes) -> None:
    for packer in (pack, pack_literal, pack_sparse):
        packed = packer(words)
        unpacked, end = unpack(packed, 0, len(words))
        assert (bytes(unpacked), end) == (words, len(packed)), packer.__name__
    word = words[:WORD_SIZE]
    if word and any(word) and not all(word):
        assert pack_word(word) == pack(word)


def _unpack_simply(packed: bytes, size: int) -> Optional[tuple[bytes, int]]:
    """Do as section 3.3 of docs/protocol.md says; None where it cannot be done."""
    words = bytearray()
    at = 0
    while len(words) < size:
        if at >= len(packed):
            return None
        tag = packed[at]
        at += 1
        for bit in range(8):
            if tag >> bit & 1 and at >= len(packed):
                return None
            words.append(packed[at] if tag >> bit & 1 else 0)
            at += tag >> bit & 1
        if tag in (0x00, 0xFF):
            if at >= len(packed):
                return None
            run = packed[at] * WORD_SIZE
            at += 1
            words += packed[at : at + run] if tag else bytes(run)
            at += run if tag else 0
            if at > len(packed):
                return None
    return (bytes(words), at) if len(words) == size else None
