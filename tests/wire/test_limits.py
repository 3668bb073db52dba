"""Expensive packing is rejected; any 64 KiB of payload or padding pass, however they are packed."""

from __future__ import annotations

import contextlib
import random
import time
import tracemalloc

import pytest

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.errors import DecodeError
from offset_common.wire.messages import ChannelMessage, KaMessage, max_payload_size
from offset_common.wire.packing import DATA_ALLOWANCE, MAX_RUNS, max_unpacked_size, pack
from tests.channel.layouts import ka_message
from tests.wire import oracle
from tests.wire.layout import channel_message, word

KIB_64 = 65_536


def repeated(pattern: str) -> bytes:
    unit = bytes.fromhex(pattern)
    return (unit * KIB_64)[:KIB_64]


def with_zeros(count: int) -> bytes:
    """Return words with `count` zero bytes each, at random positions."""
    chance = random.Random(count)
    words = bytearray(b"\x07" * KIB_64)
    for start in range(0, KIB_64, 8):
        for at in chance.sample(range(8), count):
            words[start + at] = 0
    return bytes(words)


FILLINGS = {
    "random": random.Random(1).randbytes(KIB_64),
    "zeros": bytes(KIB_64),
    "ones": b"\xff" * KIB_64,
    "zero bits": random.Random(2).randbytes(KIB_64).translate(bytes(i & 1 for i in range(256))),
    "one-byte words": repeated("0500000000000000"),
    "zero words between": repeated("0000000000000000 0500000000000000"),
    "full words between": repeated("0102030405060708 0102000405060008"),
    "a zero a word": repeated("0102030405060708 01020304 00060708"),
    **{f"{count} zeros a word": with_zeros(count) for count in range(1, 8)},
}


def packed_by_oracle(payload: bytes, padding: bytes) -> bytes:
    return oracle.packed(ChannelMessage(padding, oracle.packed(KaMessage(payload))))


@pytest.mark.parametrize(
    ("payload", "padding"),
    [
        *((payload, padding) for payload in FILLINGS for padding in ("random", "zeros", "ones")),
        *(("random", padding) for padding in FILLINGS),
    ],
)
def test_any_64_kib_of_payload_or_padding_pass(payload, padding):
    padding_bytes = FILLINGS[padding][:65_535]
    packed = packed_by_oracle(FILLINGS[payload], padding_bytes)
    outer = ChannelMessage.decode(packed)
    assert outer.rand_padding == padding_bytes
    assert isinstance(outer.content, bytes)
    assert KaMessage.decode(outer.content).message == FILLINGS[payload]


# Expensive packing.

EXPENSIVE = {
    "zero words": (b"\x00\x00", 1),
    "zero runs": (b"\x00\x1f", 32),
    "one byte a word": (b"\x80a", 1),
    "two bytes a word": (b"\x81aa", 1),
    "gaps": (b"\xabaaaaa", 1),
    "seven bytes a word": (b"\xfeaaaaaaa", 1),
    "short literal runs": (b"\xffaaaaaaaa\x00", 1),
    "zero words and one byte": (b"\x00\x00\x80a", 2),
}


KINDS = [
    (KaMessage, lambda packed, words: ka_message(words, packed), 1),
    (ChannelMessage, lambda packed, words: channel_message(packed, 8 * words), 2),
]


@pytest.mark.parametrize(("unit", "words"), EXPENSIVE.values(), ids=EXPENSIVE)
@pytest.mark.parametrize(("kind", "wrap", "fields"), KINDS, ids=["KaMessage", "ChannelMessage"])
def test_runs_without_end_are_rejected_in_time(kind, wrap, fields, unit, words):
    def seconds(packed: bytes) -> float:
        start = time.process_time()
        with contextlib.suppress(DecodeError):
            kind.decode(packed)
        return time.process_time() - start

    allowed = wrap(b"\x7faaaaaaa" * 8_000, 8_000)
    kind.decode(allowed)
    endless = wrap(unit * 90_000, 90_000 * words)
    with pytest.raises(DecodeError):
        kind.decode(endless)
    most, spent = (min(seconds(packed) for _ in range(5)) for packed in (allowed, endless))
    assert spent < 6 * most


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize(("kind", "wrap", "fields"), KINDS, ids=["KaMessage", "ChannelMessage"])
def test_number_of_runs_is_limited(kind, wrap, fields, more):
    runs = MAX_RUNS - (3 if kind is KaMessage else 5) + more
    packed = wrap(b"\x7faaaaaaa" * runs, runs)
    if not more:
        kind.decode(packed)
        return
    with pytest.raises(DecodeError, match="runs of packed words"):
        kind.decode(packed)


@pytest.mark.parametrize(("kind", "wrap", "fields"), KINDS, ids=["KaMessage", "ChannelMessage"])
def test_unpacked_size_is_limited_by_packed_size(kind, wrap, fields):
    verdicts = []
    for runs in range(10, 100):
        packed = wrap(b"\x00\xff" * runs, 256 * runs)
        size = 2048 * runs + (24 if kind is KaMessage else 40)
        try:
            kind.decode(packed)
        except DecodeError as error:
            assert "too many for its size" in str(error)
            verdicts.append(False)
        else:
            verdicts.append(True)
        assert verdicts[-1] is (size <= max_unpacked_size(len(packed), fields))
    assert {*verdicts} == {True, False}


def test_max_payload_size_bounds_both_levels():
    assert max_payload_size(100) == 100 + 3 * DATA_ALLOWANCE
    assert max_payload_size(MAX_FRAME_SIZE) == MAX_FRAME_SIZE


def test_claimed_size_takes_no_memory():
    packed = pack(word(0, 2**23)) + b"\x00\xff" * 2**15
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError):
            ChannelMessage.decode(packed)
        assert tracemalloc.get_traced_memory()[1] < len(packed) + 10_000
    finally:
        tracemalloc.stop()
