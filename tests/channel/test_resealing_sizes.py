"""What the hot path sends is no larger than it need be, whatever the size of what came."""

from __future__ import annotations

import random
import time

import pytest

from offset_common.channel.glance import UNKNOWN, find_message
from offset_common.channel.resealing import LARGEST_PADDING_KEPT, MOST_OUTPUT
from offset_common.constants import MAX_FRAME_SIZE, MAX_MESSAGE_SIZE, MAX_PADDING_SENT, SEAL_OVERHEAD
from offset_common.errors import DecodeError, FrameError
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack, pack_literal, pack_sparse, unpack
from tests.channel.layouts import ENCODERS, FILLINGS, as_own, as_unknown, zero_words
from tests.channel.tunnels import LARGEST_INPUT, Tunnel, assert_both_ways_agree


def test_the_largest_frame_is_resealed_and_one_byte_more_is_refused():
    size = MAX_FRAME_SIZE - SEAL_OVERHEAD
    plaintext = as_own(random.Random(1).randbytes(MAX_MESSAGE_SIZE), b"")
    plaintext += bytes(size - len(plaintext))  # "bytes after the end of the message" are ignored
    largest = Tunnel()
    largest.feed_fast(largest.frame(plaintext))
    assert largest.error is None
    assert largest.frame_sizes == [MAX_FRAME_SIZE]
    for more in (1, SEAL_OVERHEAD, SEAL_OVERHEAD + 1):
        tunnel = Tunnel()
        plain, _ = assert_both_ways_agree(tunnel.frame(plaintext + bytes(more)), [])
        assert isinstance(plain.error, FrameError)


@pytest.mark.parametrize("encode", ENCODERS)
@pytest.mark.parametrize("padding_size", [LARGEST_PADDING_KEPT, LARGEST_PADDING_KEPT + 1, 40_000, 65_535])
@pytest.mark.parametrize("payload_size", [0, 100, 70_000])
def test_only_large_padding_is_replaced_by_small(encode, padding_size, payload_size):
    chance = random.Random(padding_size)
    payload = chance.randbytes(payload_size)
    tunnel = Tunnel()
    frame = tunnel.frame(encode(payload, chance.randbytes(padding_size)))
    tunnel.feed_fast(frame)
    assert tunnel.payloads == [payload]
    size = 8 + tunnel.frame_sizes[0]
    if padding_size <= LARGEST_PADDING_KEPT:
        assert size == len(frame)
    else:
        assert size <= len(frame) - padding_size + MAX_PADDING_SENT + 16


def test_the_sizes_of_small_padding_are_drawn_anew():
    tunnel = Tunnel()
    for _ in range(40):
        tunnel.feed_fast(tunnel.frame(as_own(b"message", random.Random(1).randbytes(900))))
    assert len(set(tunnel.frame_sizes)) > 15


def test_a_batch_stops_when_its_output_is_large_and_goes_on_with_the_rest():
    payload = bytes(random.Random(5).randbytes(MAX_MESSAGE_SIZE // 8)) * 8
    sender = Tunnel()
    packed = [sender.frame(as_unknown(payload[: 200_000 + number], b"")) for number in range(5)]
    stream = b"".join(packed) + sender.frame(as_own(b"last", b"")) + b"begin"
    tunnel = Tunnel()
    for start in range(0, len(stream), LARGEST_INPUT):
        tunnel.feed_fast(stream[start : start + LARGEST_INPUT])
    assert tunnel.payloads == [payload[: 200_000 + number] for number in range(5)] + [b"last"]
    assert any(batch.stopped for batch in tunnel.batches)
    assert all(len(batch.output) > MOST_OUTPUT for batch in tunnel.batches if batch.stopped)


def test_a_whole_input_of_known_messages_is_one_batch():
    sender, tunnel = Tunnel(), Tunnel()
    message = as_own(bytes(4000), b"")
    frames = b"".join(sender.frame(message) for _ in range(LARGEST_INPUT // (len(message) + 40)))
    tunnel.feed_fast(frames)
    assert [(batch.taken, batch.stopped) for batch in tunnel.batches] == [(len(frames), False)]


# Messages that came with their zeros packed away.


def packed_zeros(size: int) -> bytes:
    """A KaMessage of so many zero bytes, a multiple of 8, in a few packed ones."""
    words = size // 8
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, size)
    return pack(segment_table(3 + words)) + pack(head) + zero_words(words)


def as_bomb(user: bytes) -> bytes:
    """Pack a ChannelMessage whose zeros take no room, in a layout that only the plain way knows."""
    user += bytes(-len(user) % 8)
    words = struct_pointer(1, 0, 2) + bytes(8)  # the root is not where it always is
    words += bytes(8) + struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, len(user)) + user
    return pack(segment_table(len(words) // 8)) + pack(words)


LARGEST_ZEROS = MAX_FRAME_SIZE - 24


def in_channel_message(user: bytes) -> bytes:
    return ChannelMessage(b"padding", user).encode()


@pytest.mark.parametrize("size", [2048, 65_536, 1_153_432, LARGEST_ZEROS])
@pytest.mark.parametrize(
    "wrap", [as_bomb, lambda user: ChannelMessage(bytes(900), user).encode(), in_channel_message]
)
def test_a_message_of_packed_zeros_stays_small(size, wrap):
    tunnel = Tunnel()
    frame = tunnel.frame(wrap(packed_zeros(size)))
    started = time.process_time()
    tunnel.feed_fast(frame)
    assert time.process_time() - started < 0.05
    assert tunnel.error is None
    assert tunnel.payloads == [bytes(size)]
    assert tunnel.frame_sizes[0] <= 2 * len(frame) + MAX_PADDING_SENT + 40


def test_zeros_packed_twice_stay_small():
    # A KaMessage whose zero words are packed one by one, into zeros again.
    words = 140_000
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    user = pack(segment_table(3 + words)) + pack(head) + bytes(2 * words)
    for padding, plaintext in ((0, as_bomb(user)), (900, b"")):
        tunnel = Tunnel()
        frame = tunnel.frame(plaintext or known_bomb(padding, user))
        started = time.process_time()
        tunnel.feed_fast(frame)
        assert time.process_time() - started < 0.05
        assert tunnel.payloads == [bytes(8 * words)]
        assert tunnel.frame_sizes[0] < 3000
    assert find_message(bytearray(known_bomb(8, user)), 4000, 0) == (UNKNOWN, None)


@pytest.mark.parametrize("tail", [b"", b"\x00", b"\x00\x00", b"\x00\x03", b"\x01\x05"])
def test_zero_words_packed_one_by_one_unpack_to_no_more_than_they_are(tail):
    for count in (*range(12), 255, 256, 257, 5000):
        packed = bytes(2 * count) + tail
        for words in (count - 1, count):
            assert words < 0 or unpack(packed, 0, 8 * words) == (bytearray(8 * words), 2 * words)
    assert unpack(bytes(40) + b"\x00\x03\x01\x05", 0, 200) == (bytearray(192) + b"\x05" + bytes(7), 44)
    for missing in (1, 2, 16, 17, 60):
        with pytest.raises(DecodeError):
            unpack(bytes(80 - missing), 0, 320)


def known_bomb(padding: int, user: bytes) -> bytes:
    """Pack zeros away in the layout that is known, behind large padding."""
    user += bytes(-len(user) % 8)
    padding += -padding % 8
    head = struct_pointer(0, 0, 2) + data_pointer(1, padding) + struct_pointer(padding // 8, 1, 1)
    words = head + bytes(padding) + discriminant_word(1) + data_pointer(0, len(user)) + user
    return (
        pack(segment_table(len(words) // 8))
        + pack(head)
        + zero_words(padding // 8)
        + pack(words[24 + padding :])
    )


def test_a_batch_of_known_messages_that_would_grow_without_their_padding_keeps_its_size():
    message = random.Random(2).randbytes(3000)
    user = KaMessage(message).encode() + bytes(6000)
    sender, tunnel = Tunnel(), Tunnel()
    frames = b"".join(sender.frame(known_bomb(900, user)) for _ in range(50))
    tunnel.feed_fast(frames)
    assert tunnel.payloads == [message] * 50
    assert sum(tunnel.frame_sizes) + 50 * 8 == len(frames)


@pytest.mark.parametrize("filling", FILLINGS)
def test_the_largest_payload_fits_a_frame_in_whatever_layout_it_came(filling):
    payload = FILLINGS[filling](MAX_MESSAGE_SIZE)
    for encode in (as_unknown, *ENCODERS):
        tunnel = Tunnel()
        tunnel.feed_fast(tunnel.frame(encode(payload, b"")))
        assert tunnel.payloads == [payload]
        assert tunnel.frame_sizes[0] <= MAX_FRAME_SIZE


def test_packing_sparse_content_is_undone_by_unpacking_and_no_larger_than_it_need_be():
    chance = random.Random(8)
    for _ in range(200):
        parts = []
        for _ in range(chance.randrange(6)):
            parts += [
                bytes(chance.choice((3, 63, 64, 65, 72, 2047, 2048, 2049, 5000))),
                chance.randbytes(chance.randrange(30)),
            ]
        content = b"".join(parts)
        filled = content + bytes(-len(content) % 8)
        packed = pack_sparse(content)
        assert unpack(packed, 0, len(filled)) == (bytearray(filled), len(packed))
        assert len(packed) <= len(pack(filled)) + 2 * len(parts)
        assert len(packed) <= len(pack_literal(filled)) * 1.3 + 2 * len(parts)
