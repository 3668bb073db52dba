"""Honest messages are never called costly, whoever encoded them; what takes long to take apart always is."""

from __future__ import annotations

import random
import time

import pytest
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.channel.costs import costs_little
from offset_common.errors import DecodeError
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.messages import ChannelMessage, KaMessage, Rekey
from offset_common.wire.packing import pack
from tests.channel import recorded
from tests.channel.layouts import ENCODERS, as_released_user, as_unknown, zero_words


@pytest.mark.parametrize("encode", [*ENCODERS, as_unknown])
@pytest.mark.parametrize("payload", [0, 64, 1000, 16_384, 70_000, 1_000_000])
@pytest.mark.parametrize("padding", [0, 100, 8000, 8160, 40_000, 65_535])
def test_random_payloads_and_padding_cost_little(encode, payload, padding):
    chance = random.Random(payload + padding)
    assert costs_little(encode(chance.randbytes(payload), chance.randbytes(padding)))


@pytest.mark.parametrize("padding", [0, 300, 30_000, 65_535])
def test_keepalives_and_rekeys_cost_little(padding):
    filling = random.Random(padding).randbytes(padding)
    assert costs_little(as_released_user(KaMessage(None).encode(), filling))
    assert costs_little(ChannelMessage(filling, KaMessage(None).encode()).encode())
    assert costs_little(ChannelMessage(filling, Rekey(bytes(32), bytes(32))).encode())


def test_all_that_the_original_sent_costs_little():
    for recording in recorded.load("channel.json"):
        key = recording.bytes_of("receiving_key")
        for counter, payload in enumerate(recording.payloads("received")[3:]):
            nonce = counter.to_bytes(12, "little")
            assert costs_little(ChaCha20Poly1305(key).decrypt(nonce, payload[12:], None))


def message_of(words: int, packed: bytes) -> bytes:
    """Pack a KaMessage whose message is words that are packed already."""
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    return pack(segment_table(3 + words)) + pack(head) + packed


SLOW = {
    "single bytes": (5000, b"\x01\x05" * 5000),
    "gaps": (5000, b"\xef1234567" * 5000),
    "short runs": (5000, b"\xff12345678\x00" * 5000),
    "zeros between": (10_000, b"\x00\x00\x01\x05" * 5000),
    "zeros": (70_000, zero_words(70_000)),  # in less runs than are too many
}


@pytest.mark.parametrize("kind", SLOW)
@pytest.mark.parametrize("outer", [True, False], ids=["in the user data", "in the message"])
def test_what_takes_long_is_costly_and_that_is_said_quickly(kind, outer):
    words, packed = SLOW[kind]
    if outer:
        plaintext = pack(segment_table(5 + words)) + pack(
            struct_pointer(0, 0, 2) + data_pointer(1, 8 * words) + struct_pointer(words, 1, 1)
        )
        plaintext += packed + pack(discriminant_word(1) + data_pointer(0, 0))
    else:
        plaintext = ChannelMessage(b"", message_of(words, packed)).encode()
    began = time.process_time()
    assert not costs_little(plaintext)
    assert time.process_time() - began < 0.02


def test_nonsense_costs_little():
    chance = random.Random(9)
    for size in (0, 1, 2, 9, 10, 11, 100, 1000, 3000):
        for _ in range(30):
            nonsense = chance.randbytes(size)
            if not costs_little(nonsense):
                began = time.process_time()
                with pytest.raises(DecodeError):
                    ChannelMessage.decode(nonsense)
                assert time.process_time() - began < 0.05
