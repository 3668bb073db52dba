"""Packing and unpacking: section 3.3 of docs/protocol.md."""

from __future__ import annotations

import io
import os
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.errors import DecodeError
from offset_common.wire.packing import pack, pack_literal, unpack
from tests.wire import layout, oracle
from tests.wire.strategies import DATA

WORD = bytes(range(1, 9))
RUN_SIZE = 256 * 8  # bytes of the longest run, unpacked
WORDS = DATA.map(lambda data: data + bytes(-len(data) % 8))


def oracle_unpack(packed_body: bytes, size: int) -> bytes:
    """Unpack a Data with the oracle: the words of a KaMessage after its first three."""
    table = layout.word(0, 3 + size // 8)
    root = layout.near(layout.STRUCT, 0, layout.sections(1, 1)) + layout.word(1)
    head = root + layout.near(layout.LIST, 0, layout.elements(size))
    data: bytes = oracle.schema.KaMessage.from_bytes_packed(pack(table) + pack(head) + packed_body).message
    return data


@given(WORDS)
@settings(max_examples=150)
def test_oracle_unpacks_the_output_of_pack(words):
    assert oracle_unpack(pack(words), len(words)) == words


@given(DATA)
@settings(max_examples=150)
def test_oracle_unpacks_the_output_of_pack_literal(data):
    padded = data + bytes(-len(data) % 8)
    assert oracle_unpack(pack_literal(data), len(padded)) == padded


@given(WORDS, st.sampled_from([pack, pack_literal]), st.binary(max_size=3), st.binary(max_size=3))
@settings(max_examples=150)
def test_unpack_returns_the_words_and_their_end(words, packer, before, after):
    packed = packer(words)
    unpacked, end = unpack(before + packed + after, len(before), len(words))
    assert unpacked == words
    assert end == len(before + packed)


@pytest.mark.parametrize(
    ("words", "packed"),
    [
        (b"", ""),
        (bytes(8), "00 00"),
        (bytes(8 * 256), "00 ff"),
        (bytes(8 * 257), "00 ff 00 00"),
        (WORD, "ff 0102030405060708 00"),
        (WORD * 2, "ff 0102030405060708 01 0102030405060708"),
        (bytes.fromhex("0800000003000200"), "51 08 03 02"),
        (bytes(8) + WORD + bytes(8), "00 00 ff 0102030405060708 00 00 00"),
    ],
    ids=["nothing", "zero", "longest zero run", "two zero runs", "full", "two full", "pointer", "mixed"],
)
def test_pack_writes_counts_after_zero_and_full_tags(words, packed):
    assert pack(words) == bytes.fromhex(packed)


@pytest.mark.parametrize("words", [255, 256, 257, 512, 513])
def test_literal_run_has_at_most_256_words(words):
    runs = -(-words // 256)
    assert len(pack_literal(WORD * words)) == words * 8 + 2 * runs
    assert unpack(pack_literal(WORD * words), 0, words * 8)[0] == WORD * words


@pytest.mark.parametrize(
    "packed", [b"\x00\x01", b"\x00\xff", b"\xff" + WORD + b"\x01" + WORD], ids=["zeros", "many", "literal"]
)
def test_run_across_the_end_is_refused(packed):
    with pytest.raises(DecodeError, match="crosses"):
        unpack(packed, 0, 8)


def unpack_bit_by_bit(packed: bytes, size: int) -> Optional[tuple[bytes, int]]:
    """Unpack as section 3.3 of docs/protocol.md describes it; return None for invalid input."""
    words, rest = b"", io.BytesIO(packed)
    while len(words) < size:
        tag = rest.read(1)
        if not tag:
            return None
        present = [tag[0] >> bit & 1 for bit in range(8)]
        content = rest.read(sum(present))
        if len(content) < sum(present):
            return None
        following = iter(content)
        words += bytes(next(following) if bit else 0 for bit in present)
        if tag in (b"\x00", b"\xff"):
            count = rest.read(1)
            if not count:
                return None
            run = 8 * count[0]
            following_words = rest.read(run) if tag == b"\xff" else bytes(run)
            if len(following_words) < run:
                return None
            words += following_words
    return (words, rest.tell()) if len(words) == size else None


TAGS = st.sampled_from([b"\x00", b"\xff", b"\x01", b"\x7f", b"\x00\x01", b"\xff" + WORD])


@given(st.lists(TAGS | st.binary(max_size=12), max_size=20).map(b"".join), st.integers(0, 20))
@settings(max_examples=400)
def test_any_bytes_unpack_as_the_protocol_describes(packed, words):
    expected = unpack_bit_by_bit(packed, words * 8)
    if expected is None:
        with pytest.raises(DecodeError):
            unpack(packed, 0, words * 8)
    else:
        unpacked, end = unpack(packed, 0, words * 8)
        assert (bytes(unpacked), end) == expected


@given(st.integers(0, 6 * (RUN_SIZE + 2) - 1))
def test_cut_in_consecutive_full_runs_is_an_error(size: int) -> None:
    content = os.urandom(6 * RUN_SIZE)
    assert unpack(pack_literal(content), 0, len(content))[0] == content
    with pytest.raises(DecodeError, match="end too early"):
        unpack(pack_literal(content)[:size], 0, len(content))


@given(st.data())
def test_full_runs_between_other_words_are_unpacked(data: st.DataObject) -> None:
    sizes_of_contents = st.sampled_from([8, RUN_SIZE - 8, RUN_SIZE, 5 * RUN_SIZE, 9 * RUN_SIZE])
    sizes = data.draw(st.lists(sizes_of_contents, max_size=6))
    contents = [os.urandom(size) for size in sizes]
    packed = b"".join(pack_literal(content) + pack(bytes(16)) for content in contents)
    expected = b"".join(content + bytes(16) for content in contents)
    words, end = unpack(packed, 0, len(expected))
    assert (bytes(words), end) == (expected, len(packed))
