"""The fast path trims padding, and forwards nothing that unpacks to much more than its packed size."""

from __future__ import annotations

import os
import random

import pytest

from offset_common.channel.classify import MAX_PADDING_KEPT, Content, classify
from offset_common.channel.forwarder import MAX_OUTPUT, _PaddingSource
from offset_common.constants import ENCRYPTION_OVERHEAD, MAX_FRAME_SIZE, MAX_MESSAGE_SIZE, MAX_PADDING_SENT
from offset_common.errors import FrameError
from offset_common.wire.messages import ChannelMessage, KaMessage, max_payload_size
from tests.channel.layouts import (
    ENCODERS,
    FILLINGS,
    as_own,
    as_unknown,
    channel_message,
    ka_message,
    zero_words,
)
from tests.channel.tunnels import LARGEST_INPUT, Tunnel, assert_both_paths_agree
from tests.wire import oracle


def test_frame_limit_is_exact():
    size = MAX_FRAME_SIZE - ENCRYPTION_OVERHEAD
    plaintext = as_own(random.Random(1).randbytes(MAX_MESSAGE_SIZE), b"")
    plaintext += bytes(size - len(plaintext))  # "bytes after the end of the message" are ignored
    largest = Tunnel()
    largest.feed_fast(largest.frame(plaintext))
    assert largest.error is None
    assert largest.frame_sizes == [MAX_FRAME_SIZE]
    for more in (1, ENCRYPTION_OVERHEAD, ENCRYPTION_OVERHEAD + 1):
        tunnel = Tunnel()
        slow, _ = assert_both_paths_agree(tunnel.frame(plaintext + bytes(more)), [])
        assert isinstance(slow.error, FrameError)


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("padding_size", [MAX_PADDING_KEPT, MAX_PADDING_KEPT + 1, 40_000, 65_535])
@pytest.mark.parametrize("payload_size", [0, 100, 70_000])
def test_only_long_padding_is_trimmed(encode, padding_size, payload_size):
    chance = random.Random(padding_size)
    payload = chance.randbytes(payload_size)
    tunnel = Tunnel()
    frame = tunnel.frame(encode(payload, chance.randbytes(padding_size)))
    tunnel.feed_fast(frame)
    assert tunnel.payloads == [payload]
    size = 8 + tunnel.frame_sizes[0]
    if padding_size <= MAX_PADDING_KEPT:
        assert size == len(frame)
    else:
        assert size <= len(frame) - padding_size + MAX_PADDING_SENT + 16


def trim(packed: bytes, source: _PaddingSource) -> bytes:
    content = classify(bytearray(packed), len(packed))
    assert isinstance(content, Content) and content.packed
    return source.pad(content)


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("payload_size", [0, 1, 1000, 8100, 8200, 70_000, 600_000])
def test_trimmed_messages_read_the_same_elsewhere(encode, payload_size):
    chance = random.Random(payload_size)
    source = _PaddingSource(os.urandom)
    for padding_size in (900, 8000, 9000, 65_535):
        packed = encode(chance.randbytes(payload_size), chance.randbytes(padding_size))
        before = oracle.read(ChannelMessage, packed)
        after = oracle.read(ChannelMessage, trim(packed, source))
        assert isinstance(before, ChannelMessage)
        assert isinstance(after, ChannelMessage)
        assert after.content == before.content
        assert len(after.rand_padding) <= MAX_PADDING_SENT


def test_no_padding_is_used_twice():
    source = _PaddingSource(os.urandom)
    packed = ENCODERS[0](b"message", bytes(900))
    paddings = [ChannelMessage.decode(trim(packed, source)).rand_padding for _ in range(300)]
    assert len({padding[:16] for padding in paddings if len(padding) >= 16}) > 250
    assert len({len(padding) for padding in paddings}) > 100


def test_batch_stops_when_its_output_is_large():
    payload = random.Random(5).randbytes(MAX_MESSAGE_SIZE // 8) * 8
    sender = Tunnel()
    packed = [sender.frame(as_unknown(payload[: 200_000 + number], b"")) for number in range(5)]
    stream = b"".join(packed) + sender.frame(as_own(b"last", b"")) + b"begin"
    tunnel = Tunnel()
    for start in range(0, len(stream), LARGEST_INPUT):
        tunnel.feed_fast(stream[start : start + LARGEST_INPUT])
    assert tunnel.payloads == [payload[: 200_000 + number] for number in range(5)] + [b"last"]
    assert any(batch.more for batch in tunnel.batches)
    assert all(len(batch.output) > MAX_OUTPUT for batch in tunnel.batches if batch.more)


# Messages whose zero bytes arrive packed.


WRAPS = [
    lambda user: oracle.packed(ChannelMessage(b"", user), slack=()),
    lambda user: channel_message(bytes(900), user),
    lambda user: channel_message(b"", user),
]


@pytest.mark.parametrize("wrap", WRAPS, ids=["slow path", "trimmed", "as it is"])
@pytest.mark.parametrize("size", [2048, 65_536])
def test_packed_zeros_stay_packed(size, wrap):
    tunnel = Tunnel()
    frame = tunnel.frame(wrap(ka_message(size // 8, zero_words(size // 8))))
    tunnel.feed_fast(frame)
    assert tunnel.error is None
    assert tunnel.payloads == [bytes(size)]
    assert tunnel.frame_sizes[0] <= 2 * len(frame) + MAX_PADDING_SENT + 40


@pytest.mark.parametrize("wrap", WRAPS, ids=["slow path", "trimmed", "as it is"])
def test_nothing_forwarded_unpacks_to_much_more(wrap):
    forwarded = []
    for words in (8192, 9000, 20_000, 80_000, 140_000):
        tunnel = Tunnel()
        frame = tunnel.frame(wrap(ka_message(words, zero_words(words))))
        tunnel.feed_fast(frame)
        assert bool(tunnel.frame_sizes) is (tunnel.error is None)
        if tunnel.error is None:
            assert 8 * words <= max_payload_size(len(frame))
            forwarded.append(words)
    assert forwarded == [8192]


def test_padding_of_packed_zeros_is_kept():
    message = random.Random(2).randbytes(3000)
    user = KaMessage(message).encode() + bytes(6000)
    sender, tunnel = Tunnel(), Tunnel()
    frames = b"".join(sender.frame(channel_message(bytes(900), user)) for _ in range(50))
    tunnel.feed_fast(frames)
    assert tunnel.payloads == [message] * 50
    assert sum(tunnel.frame_sizes) + 50 * 8 == len(frames)


@pytest.mark.parametrize("filling", FILLINGS)
@pytest.mark.parametrize("encode", [as_unknown, *ENCODERS])
def test_any_payload_of_64_kib_passes(filling, encode):
    payload = FILLINGS[filling](65_536)
    for padding in (b"", FILLINGS[filling](65_535)):
        tunnel = Tunnel()
        tunnel.feed_fast(tunnel.frame(encode(payload, padding)))
        assert tunnel.payloads == [payload]


@pytest.mark.parametrize("encode", [as_unknown, *ENCODERS])
@pytest.mark.parametrize("padding_size", [0, 65_535])
def test_largest_payload_fits_a_frame(encode, padding_size):
    payload = random.Random(3).randbytes(MAX_MESSAGE_SIZE)
    tunnel = Tunnel()
    tunnel.feed_fast(tunnel.frame(encode(payload, payload[:padding_size])))
    assert tunnel.payloads == [payload]
    assert tunnel.frame_sizes[0] <= MAX_FRAME_SIZE


def test_fault_inside_a_large_payload_reaches_the_far_node_only():
    user = KaMessage(random.Random(4).randbytes(9000)).encode()[:-1]
    tunnel = Tunnel()
    tunnel.feed_fast(tunnel.frame(channel_message(b"", user)))
    assert tunnel.error is None
    assert tunnel.payloads == []
    assert tunnel.far_error is not None
