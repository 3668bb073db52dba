"""`classify` accepts only messages that the decoder accepts.

Each check puts the message into a larger buffer with other bytes after it, because the relay's scratch buffer
still contains the remains of earlier messages.
"""

from __future__ import annotations

import os
import random
from typing import Callable, NamedTuple, Optional

import pytest

from offset_common.channel.classify import MAX_PADDING_KEPT, UNCHANGED, classify, find_short_user
from offset_common.channel.forwarder import _PaddingSource
from offset_common.constants import MAX_FRAME_SIZE, MAX_PADDING_SENT
from offset_common.errors import DecodeError
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.messages import ChannelMessage, KaMessage, Rekey
from offset_common.wire.packing import pack, pack_literal
from tests.channel import recorded
from tests.channel.layouts import (
    ENCODERS,
    FILLINGS,
    as_released,
    as_released_user,
    as_unknown,
    distorted_message,
    ka_message,
    mixed,
    mutate,
    whole_words,
    zero_words,
)
from tests.wire import layout, oracle


class Meaning(NamedTuple):
    """The content of a ChannelMessage according to the decoder.

    Args:
        padding: its size in bytes.
        user: user data.
        message: None unless the user data is a KaMessage `message`.
        fault: the decoder's error for the KaMessage, or None.
    """

    padding: int
    user: bytes
    message: Optional[bytes] = None
    fault: Optional[DecodeError] = None


def meaning(packed: bytes) -> Optional[Meaning]:
    """Decode a ChannelMessage with user data; return None for everything else."""
    try:
        outer = ChannelMessage.decode(packed)
    except DecodeError:
        return None
    if isinstance(outer.content, Rekey):
        return None
    try:
        return Meaning(len(outer.rand_padding), outer.content, KaMessage.decode(outer.content).message)
    except DecodeError as error:
        return Meaning(len(outer.rand_padding), outer.content, None, error)


def check(packed: bytes, stale: bytes = b"") -> bool:
    """Compare `classify` with the decoder; return whether it accepted the message."""
    scratch = bytearray(packed + stale)
    content = classify(scratch, len(packed))
    assert scratch == packed + stale
    user = find_short_user(packed)
    if content is None and user is None:
        return False
    want = meaning(packed)
    assert want is not None
    assert user is None or user == want.user
    if content is None:
        return False
    # The decoder may reject an accepted message only for a fault in a payload that was not walked.
    assert want.message is not None or want.fault is not None
    assert (content is not UNCHANGED) is (want.padding > MAX_PADDING_KEPT)
    if content is not UNCHANGED:
        trimmed = meaning(PADDING.pad(content))
        assert trimmed is not None
        assert trimmed.user == want.user
        assert trimmed.padding <= MAX_PADDING_SENT
    return True


PADDING = _PaddingSource(os.urandom)
SPARSE = ("zeros", "one zero a word", "two zeros a word", "zeros mostly")  # unlike encrypted payloads

SMALL = [*range(34), 63, 64, 65, 255, 256, 511, 512, 513, 1000, 1024, 1500, *range(2030, 2080, 3), 3000]
BORDERS = [4095, 4096, 4097, *range(8100, 8210, 9), 16383, 16384, 16385, 32768, 65535, 65536, 65537]
LARGE = [262_143, 262_144, 900_000, 1_048_576]


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("filling", FILLINGS)
def test_payloads_of_all_sizes_are_accepted(encode, filling):
    fill = FILLINGS[filling]
    sizes = SMALL + BORDERS + (LARGE if filling == "random" else [])
    accepted = [check(encode(fill(size), fill(size * 7 % 256)), b"\xff" * 5000) for size in sizes]
    assert all(accepted) or filling in SPARSE


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("filling", ["random", "zeros", "ones"])
def test_small_paddings_of_all_sizes_are_accepted(encode, filling):
    fill = FILLINGS[filling]
    assert all(check(encode(b"a payload" * 9, fill(size)), b"\xff" * 50) for size in range(256))


@pytest.mark.parametrize("payload_size", [0, 64, 1500, 65_536])
@pytest.mark.parametrize("filling", ["random", "zeros", "ones"])
def test_paddings_of_released_nodes_are_accepted(payload_size, filling):
    padding = FILLINGS[filling](65_535)
    payload = random.Random(3).randbytes(payload_size)
    sizes = [*range(256, 65_536, 4001), *range(8000, 8250), 65_535]
    unknown = [size for size in sizes if not check(as_released(payload, padding[:size]))]
    # The root, its two pointers and the padding leave one word or none of 1,024, but the content needs two.
    assert unknown == list(range(8153, 8169))


@pytest.mark.parametrize("padding_size", [0, 100, 9000, 65_535])
@pytest.mark.parametrize("user", [KaMessage(None).encode(), oracle.packed(KaMessage(None)), b"", b"u" * 2048])
def test_find_short_user_returns_short_user_data(user, padding_size):
    padding = random.Random(1).randbytes(padding_size)
    for packed in (as_released_user(user, padding), ChannelMessage(padding, user).encode()):
        assert find_short_user(packed) == user


def test_recorded_messages_are_accepted():
    wanted = []
    for recording in recorded.load("channel.json"):
        for packed in recording.plaintexts("received"):
            want = meaning(packed)
            assert want is not None
            assert check(packed, packed) is (want.message is not None)
            wanted.append(want.message)
    assert len(wanted) > wanted.count(None)


@pytest.mark.parametrize("encode", ENCODERS)
def test_other_content_is_not_accepted(encode):
    padding = b"padding!" * 3
    rekey = ChannelMessage(padding, Rekey(b"k" * 32, b"s" * 32))
    assert not check(rekey.encode())
    assert not check(oracle.packed(rekey))
    for user in (KaMessage(None).encode(), oracle.packed(KaMessage(None)), b"", b"no message", b"\x10"):
        assert not check(ChannelMessage(padding, user).encode())
        assert not check(oracle.packed(ChannelMessage(padding, user)))


@pytest.mark.parametrize("padding_size", [0, 20, 400, 600, 9000])
@pytest.mark.parametrize("encode", [*ENCODERS, as_unknown])
def test_cut_message_is_not_accepted(encode, padding_size):
    packed = encode(mixed(70) + b"payload", random.Random(1).randbytes(padding_size))
    cuts = range(len(packed)) if padding_size < 9000 else [*range(90), *range(len(packed) - 200, len(packed))]
    for size in cuts:
        assert not check(packed[:size], packed[size:] + packed)
        assert not check(packed[:size])


def test_cut_inner_message_is_not_accepted():
    for size in range(200, 220):
        user = KaMessage(b"p" * size + bytes(9)).encode()
        for missing in range(1, 8):
            for padding in (b"", b"padding", bytes(9000)):
                assert not check(ChannelMessage(padding, user[:-missing]).encode())


@pytest.mark.parametrize("encode", ENCODERS)
def test_trailing_bytes_are_ignored(encode):
    for trailing in (b"\x00", b"\xff" * 9, b"trailing"):
        assert check(encode(b"payload" * 20, bytes(range(1, 100))) + trailing)
        user = KaMessage(b"payload" * 20).encode() + trailing
        assert check(ChannelMessage(b"padding", user).encode())


def campaign(seed: int, count: int) -> tuple[int, int]:
    """Check `count` messages and a mutant of each; return how many of each were accepted."""
    chance = random.Random(seed)
    found = mutants_found = 0
    before = b""
    for number in range(count):
        if number % 4:
            packed = distorted_message(chance)
        else:
            payload = chance.randbytes(chance.choice((0, 5, 64, 300, 2100)))
            padding = bytes(chance.choice((0, 9, 200, 1000))) if number % 8 else chance.randbytes(1000)
            packed = chance.choice((*ENCODERS, as_unknown))(payload, padding)
        found += check(packed, chance.choice((b"", before, b"\x01" * 99, bytes(99), b"\xff" * 99)))
        mutant = mutate(packed, chance)
        same = next((at for at, (a, b) in enumerate(zip(mutant, packed)) if a != b), 0)
        mutants_found += check(mutant, chance.choice((packed[len(mutant) :], packed[same:], before)))
        before = packed
    return found, mutants_found


@pytest.mark.parametrize("seed", range(4))
def test_accepts_only_what_the_decoder_accepts(seed):
    found, mutants_found = campaign(seed, 900)
    assert found > 150  # otherwise the messages prove nothing
    assert mutants_found > 50


# Sizes.


def some_words(count: int) -> bytes:
    """Pack `count` words in runs."""
    return pack_literal(b"\x01" * 8 * count)


def user_of_words(payload: int) -> bytes:
    """Pack a KaMessage with `payload` words, some of them zero, so that it fits a ChannelMessage."""
    return ka_message(payload, zero_words(3000) + some_words(payload - 3000))


def behind_words(padding: int, user: bytes, some_words: Callable[[int], bytes] = some_words) -> bytes:
    """Pack a ChannelMessage with `padding` words of padding, which `some_words` packs."""
    return layout.channel_message(pack_literal(user), len(user), some_words(padding), 8 * padding)


def test_size_limit_is_the_decoders():
    most = MAX_FRAME_SIZE // 8
    assert check(behind_words(0, user_of_words(most - 3)))
    assert not check(behind_words(0, user_of_words(most - 2)))
    user = KaMessage(b"message").encode()
    padding = most - 5 - len(whole_words(user)) // 8
    assert check(behind_words(padding, user))
    assert not check(behind_words(padding + 1, user))


@pytest.mark.parametrize(("words", "accepted"), [(8000, True), (18_500, False), (60_000, False)])
def test_zeros_beyond_the_allowance_are_not_accepted(words, accepted):
    for start in (8, 300):  # the user data is one run, or more
        user = ka_message(words, some_words(start) + zero_words(words - start))
        assert check(behind_words(0, user)) is accepted
    assert check(behind_words(words, KaMessage(b"message").encode(), zero_words)) is accepted


@pytest.mark.parametrize("claim", [1 << 17, 1 << 28, (1 << 29) - 1])
@pytest.mark.parametrize("of_padding", [True, False])
def test_impossible_size_is_not_accepted(claim, of_padding):
    pointers = data_pointer(1, claim if of_padding else 0)
    pointers += struct_pointer((claim + 7) // 8 if of_padding else 0, 1, 1)
    content = b"" if of_padding else discriminant_word(1) + data_pointer(0, claim)
    packed = pack(segment_table(5000)) + pack(struct_pointer(0, 0, 2) + pointers + content)
    packed += b"\x00\xff" * 500_000  # enough packed words for the claimed size
    assert classify(bytearray(packed), len(packed)) is None


@pytest.mark.parametrize("more", [0, 1])
def test_size_limit_is_for_the_sum_of_segments(more):
    user = KaMessage(b"message").encode()
    words = 5 + len(whole_words(user)) // 8
    padding = MAX_FRAME_SIZE // 8 - words - 1 + more
    first = struct_pointer(0, 0, 2) + b"\x02\x00\x00\x00\x01\x00\x00\x00" + struct_pointer(0, 1, 1)
    first += discriminant_word(1) + data_pointer(0, len(user)) + whole_words(user)
    table = b"".join(number.to_bytes(4, "little") for number in (1, words, 1 + padding, 0))
    second = pack(data_pointer(0, 8 * padding)) + some_words(padding)
    packed = pack(table[:8]) + pack(table[8:]) + pack(first) + second
    assert check(packed) is (not more)


class Watched(bytearray):
    """A scratch buffer that must not be read far beyond the message."""

    end = 0

    def __getitem__(self, key):
        assert (key.start or 0 if isinstance(key, slice) else key) < self.end
        return super().__getitem__(key)


@pytest.mark.parametrize(
    ("words", "padding_words", "user_size"),
    [
        (40_000, 0, 319_000),
        (140_000, 0, 1_119_000),
        (140_000, 139_000, 100),
        (140_000, 2, 1_119_000),
        (10, 139_000, 100),
        (10, 2, 1_119_000),
        (10, 2, 8_000),
        (1_007, 2, 8_000),
    ],
)
def test_stale_bytes_are_not_read_for_a_claimed_size(words, padding_words, user_size):
    pointers = data_pointer(1, 8 * padding_words) + struct_pointer(padding_words, 1, 1)
    packed = pack(segment_table(words)) + pack(struct_pointer(0, 0, 2) + pointers)
    if padding_words < 3:
        packed += b"\x01\x01" * padding_words
        packed += pack(discriminant_word(1) + data_pointer(0, user_size))
        packed += pack_literal(KaMessage(bytes(200)).encode())
    scratch = Watched(packed + b"\x01" * 300_000)
    scratch.end = len(packed) + 2100  # one step may look ahead this far
    assert classify(scratch, len(packed)) is None
