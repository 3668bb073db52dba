"""Packing and unpacking: section 3.3 of docs/protocol.md."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.errors import DecodeError
from offset_common.wire.packing import pack, pack_literal, unpack
from tests.wire import layout, oracle
from tests.wire.strategies import DATA

WORD = bytes(range(1, 9))
WORDS = DATA.map(lambda data: data + bytes(-len(data) % 8))


def oracle_unpack(packed_body: bytes, size: int) -> bytes:
    """Let the oracle unpack what a Data holds: the body of a KaMessage after its first three words."""
    table = layout.word(0, 3 + size // 8)
    root = layout.near(layout.STRUCT, 0, layout.sections(1, 1)) + layout.word(1)
    head = root + layout.near(layout.LIST, 0, layout.elements(size))
    data: bytes = oracle.schema.KaMessage.from_bytes_packed(pack(table) + pack(head) + packed_body).message
    return data


@given(WORDS)
@settings(max_examples=150, deadline=None)
def test_oracle_unpacks_what_pack_makes(words):
    assert oracle_unpack(pack(words), len(words)) == words


@given(DATA)
@settings(max_examples=150, deadline=None)
def test_oracle_unpacks_what_pack_literal_makes(data):
    padded = data + bytes(-len(data) % 8)
    assert oracle_unpack(pack_literal(data), len(padded)) == padded


@given(WORDS, st.sampled_from([pack, pack_literal]), st.binary(max_size=3), st.binary(max_size=3))
@settings(max_examples=150, deadline=None)
def test_unpack_gives_back_the_words_and_where_they_end(words, packer, before, after):
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
def test_pack_writes_a_count_after_every_zero_and_full_tag(words, packed):
    assert pack(words) == bytes.fromhex(packed)


@pytest.mark.parametrize("words", [255, 256, 257, 512, 513])
def test_literal_run_has_at_most_256_words(words):
    runs = -(-words // 256)
    assert len(pack_literal(WORD * words)) == words * 8 + 2 * runs
    assert unpack(pack_literal(WORD * words), 0, words * 8)[0] == WORD * words


@pytest.mark.parametrize(
    "packed", [b"", b"\x00", b"\xff", b"\xff" + WORD, b"\xff" + WORD + b"\x01" + WORD[:7], b"\x03a"]
)
def test_bytes_that_end_inside_a_word_or_a_run_are_refused(packed):
    size = 16 if len(packed) > 10 else 8
    with pytest.raises(DecodeError):
        unpack(packed, 0, size)


@pytest.mark.parametrize(
    "packed", [b"\x00\x01", b"\x00\xff", b"\xff" + WORD + b"\x01" + WORD], ids=["zeros", "many", "literal"]
)
def test_run_across_the_end_of_its_part_is_refused(packed):
    with pytest.raises(DecodeError, match="crosses"):
        unpack(packed, 0, 8)


def test_literal_run_cut_short_is_refused():
    with pytest.raises(DecodeError, match="end too early"):
        unpack(b"\xff" + WORD + b"\x01", 0, 16)


@given(st.binary(max_size=200), st.integers(0, 40))
@settings(max_examples=300, deadline=None)
def test_any_bytes_unpack_to_the_size_asked_for_or_are_refused(packed, words):
    try:
        unpacked, end = unpack(packed, 0, words * 8)
    except DecodeError:
        return
    assert len(unpacked) == words * 8
    assert end <= len(packed)
