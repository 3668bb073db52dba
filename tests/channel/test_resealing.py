"""The hot path delivers what the plain path delivers, on every kind of input."""

from __future__ import annotations

import random
import time
from typing import Callable

import pytest

from offset_common.channel import cipher
from offset_common.channel.resealing import LARGEST_PADDING_KEPT, MOST_OUTPUT, Resealer
from offset_common.constants import MAX_FRAME_SIZE, MAX_MESSAGE_SIZE, MAX_PADDING_SENT, SEAL_OVERHEAD
from offset_common.errors import DecodeError, FrameError, PeerError, RekeyError, SealError
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import FrameTooLargeError, encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack, pack_literal, pack_sparse, unpack
from tests.channel import peers
from tests.channel.layouts import ENCODERS, FILLINGS, as_own, as_released, as_unknown, lying_message, mutate
from tests.channel.tunnels import LARGEST_INPUT, NOW, Tunnel
from tests.wire import oracle


class Script:
    """What a near node sends: made once, fed to several tunnels."""

    def __init__(self) -> None:
        self.tunnel = Tunnel()  # the one whose near node makes the frames; it goes the plain way
        self.frames: list[bytes] = []

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.tunnel.feed_plain(frame)

    def seal(self, plaintext: bytes) -> None:
        self.add(self.tunnel.frame(plaintext))

    def rekey(self) -> None:
        self.tunnel.near.secure_channel.start_rekey(NOW)
        self.add(self.tunnel.near.data_to_send())

    def hear_answer(self) -> None:
        """Let the near node read the relay's answer, and seal under the new key from here on."""
        peers.receive(self.tunnel.near, encode_frames(self.tunnel.source.secure_channel.outgoing), NOW)

    @property
    def stream(self) -> bytes:
        return b"".join(self.frames)


def encode_frames(payloads: list[bytes]) -> bytes:
    return b"".join(encode_frame(payload) for payload in payloads)


def chance_plaintext(chance: random.Random) -> bytes:
    filling = FILLINGS[chance.choice(list(FILLINGS))]
    payload = filling(chance.choice((0, 1, 64, 300, 2500, 9000)))
    padding = chance.randbytes(chance.choice((0, 30, 255, 700, 900, 9000)))
    return chance.choice((*ENCODERS, *ENCODERS, as_unknown))(payload, padding)


def mixed_script(seed: int, steps: int = 25) -> Script:
    chance = random.Random(seed)
    script = Script()
    rekeyed = False
    for _ in range(steps):
        step = chance.randrange(12)
        if step == 0:
            script.seal(oracle.packed(ChannelMessage(b"padding", KaMessage(None).encode())))
        elif step == 1:
            script.seal(ChannelMessage(chance.randbytes(900), KaMessage(None).encode()).encode())
        elif step == 2 and not rekeyed:
            script.rekey()
            rekeyed = True
        elif step == 3 and script.tunnel.source.secure_channel.outgoing:
            script.hear_answer()
            script.tunnel.source.secure_channel.outgoing.clear()
        else:
            script.seal(chance_plaintext(chance))
    return script


def assert_both_ways_agree(stream: bytes, cuts: list[int]) -> tuple[Tunnel, Tunnel]:
    """Feed a stream, cut at some places, in both ways."""
    plain, fast = Tunnel(), Tunnel()
    bounds = [0, *cuts, len(stream)]
    for start, end in zip(bounds, bounds[1:]):
        if plain.error is None:
            plain.feed_plain(stream[start:end])
        fast.feed_fast(stream[start:end])
    assert fast.state() == plain.state()
    return plain, fast


@pytest.mark.parametrize("seed", range(12))
def test_mixed_frames_cut_anywhere_are_delivered_as_the_plain_way_delivers_them(seed):
    script = mixed_script(seed)
    stream = script.stream
    chance = random.Random(seed)
    for cuts in ([], sorted(chance.randrange(len(stream)) for _ in range(8))):
        plain, fast = assert_both_ways_agree(stream, cuts)
        assert plain.payloads == script.tunnel.payloads != []
        assert sum(batch.taken for batch in fast.batches) == len(stream)
        assert sum(batch.frames for batch in fast.batches) == len(script.frames)


@pytest.mark.parametrize("seed", range(6))
def test_the_two_ways_can_take_turns(seed):
    script = mixed_script(seed)
    chance = random.Random(seed)
    turns = Tunnel()
    for frame in script.frames:
        chance.choice((turns.feed_plain, turns.feed_fast))(frame)
    assert turns.state() == script.tunnel.state()


def short_script() -> Script:
    script = Script()
    script.seal(as_released(b"first", b"padding"))
    script.seal(KEEPALIVE)
    script.seal(as_unknown(b"second", b""))
    script.seal(as_own(b"third", bytes(5)))
    return script


KEEPALIVE = ChannelMessage(b"padding", KaMessage(None).encode()).encode()


def test_every_cut_of_the_input_gives_the_same():
    stream = short_script().stream
    for cut in range(len(stream) + 1):
        _, fast = assert_both_ways_agree(stream, [cut])
        assert fast.payloads == [b"first", b"second", b"third"]


def test_input_that_comes_byte_by_byte_gives_the_same():
    stream = short_script().stream
    _, fast = assert_both_ways_agree(stream, list(range(1, len(stream))))
    assert fast.payloads == [b"first", b"second", b"third"]


def test_frames_are_taken_whole_and_counted():
    script = short_script()
    bounds = [sum(map(len, script.frames[:count])) for count in range(5)]
    for end in range(len(script.stream) + 1):
        fast = Tunnel()
        fast.feed_fast(script.stream[:end])
        frames = sum(bound <= end for bound in bounds[1:])
        (batch,) = fast.batches
        assert (batch.frames, batch.taken, batch.stopped) == (frames, bounds[frames], False)


# Faults: what came before them is delivered, and nothing after.


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


def outer(user: bytes) -> bytes:
    return ChannelMessage(b"padding", user).encode()


UNKNOWN_KIND = pack(segment_table(3)) + pack(struct_pointer(0, 1, 1) + discriminant_word(2) + bytes(8))
FAULTS: dict[str, tuple[Callable[[Tunnel], bytes], type[PeerError]]] = {
    "changed on the way": (lambda tunnel: flipped(tunnel.frame(as_own(b"message", b""))), SealError),
    "sent again": (lambda tunnel: short_script().frames[0], SealError),
    "one left out": (lambda tunnel: (tunnel.frame(KEEPALIVE), tunnel.frame(KEEPALIVE))[1], SealError),
    "empty": (lambda tunnel: encode_frame(b""), SealError),
    "shorter than its seal": (lambda tunnel: encode_frame(bytes(SEAL_OVERHEAD - 1)), SealError),
    "a seal only": (lambda tunnel: tunnel.frame(b""), DecodeError),
    "no ChannelMessage": (lambda tunnel: tunnel.frame(b"\x10\x05@"), DecodeError),
    "no KaMessage": (lambda tunnel: tunnel.frame(outer(b"no message")), DecodeError),
    "a KaMessage cut short": (
        lambda tunnel: tunnel.frame(outer(KaMessage(b"message").encode()[:-1])),
        DecodeError,
    ),
    "an unknown kind": (lambda tunnel: tunnel.frame(outer(UNKNOWN_KIND)), DecodeError),
    "too large": (lambda tunnel: (MAX_FRAME_SIZE + 1).to_bytes(8, "big"), FrameTooLargeError),
    "much too large": (lambda tunnel: b"\xff" * 8, FrameTooLargeError),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_a_fault_is_the_plain_ways_fault_and_what_came_before_it_is_delivered(fault, at):
    make, kind = FAULTS[fault]
    script = short_script()
    tunnel = Tunnel()
    for frame in script.frames[:at]:
        tunnel.near.secure_channel.sending.counter += 1
    frames = script.frames[:at] + [make(tunnel)]
    if fault == "sent again" and at == 0:
        frames.insert(0, frames[0])
    stream = b"".join(frames)
    before = len(stream) - len(frames[-1])
    behind = script.frames[-1]
    plain, fast = assert_both_ways_agree(stream + behind, [])
    assert isinstance(plain.error, kind)
    assert not fast.source.established
    assert fast.batches[-1].error is fast.error
    assert sum(batch.taken for batch in fast.batches) == before
    assert_both_ways_agree(stream + behind, [before])
    assert_both_ways_agree(stream, [before + 8])


def test_a_second_rekey_under_the_old_key_is_refused_as_on_the_plain_way():
    script = Script()
    script.seal(as_own(b"message", b""))
    script.rekey()
    rekey = script.tunnel.near.secure_channel
    rekey._pending = None
    script.rekey()
    plain, _ = assert_both_ways_agree(script.stream, [])
    assert isinstance(plain.error, RekeyError)
    assert plain.payloads == [b"message"]


@pytest.mark.parametrize("seed", range(150))
def test_any_plaintext_is_taken_or_refused_as_on_the_plain_way(seed):
    chance = random.Random(seed)
    tunnel = Tunnel()
    stream = b""
    for _ in range(4):
        plaintext = lying_message(chance) if chance.random() < 0.5 else chance_plaintext(chance)
        stream += tunnel.frame(mutate(plaintext, chance) if chance.random() < 0.3 else plaintext)
    assert_both_ways_agree(stream, [])


def test_a_message_that_waits_for_the_end_of_a_rekey_of_ours_goes_on():
    plain, fast = Tunnel(), Tunnel()
    for tunnel, feed in ((plain, plain.feed_plain), (fast, fast.feed_fast)):
        tunnel.source.secure_channel.start_rekey(NOW)
        feed(tunnel.frame(as_own(b"before", b"")))
        peers.receive(tunnel.near, tunnel.source.data_to_send(), NOW)
        answer = tunnel.near.data_to_send()
        feed(
            answer
            + tunnel.frame(as_own(b"under the new key", b""))
            + tunnel.frame(as_own(b"after", b"padding"))
        )
    assert fast.state() == plain.state()
    assert fast.payloads == [b"before", b"under the new key", b"after"]


# Sizes.


def test_the_largest_frame_is_resealed_and_one_byte_more_is_refused():
    padding = b""
    size = MAX_FRAME_SIZE - SEAL_OVERHEAD
    plaintext = as_own(random.Random(1).randbytes(MAX_MESSAGE_SIZE), padding)
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


def zero_words(count: int) -> bytes:
    return b"\x00\xff" * (count // 256) + (bytes((0, count % 256 - 1)) if count % 256 else b"")


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


@pytest.mark.parametrize("size", [2048, 65_536, 1_153_432, LARGEST_ZEROS])
@pytest.mark.parametrize("wrap", [as_bomb, lambda user: ChannelMessage(bytes(900), user).encode(), outer])
def test_a_message_of_packed_zeros_stays_small(size, wrap):
    tunnel = Tunnel()
    frame = tunnel.frame(wrap(packed_zeros(size)))
    started = time.process_time()
    tunnel.feed_fast(frame)
    assert time.process_time() - started < 0.05
    assert tunnel.error is None
    assert tunnel.payloads == [bytes(size)]
    assert tunnel.frame_sizes[0] <= len(frame) + MAX_PADDING_SENT + 40


def test_zeros_packed_twice_stay_small():
    # A KaMessage whose zero words are packed one by one, into zeros again.
    words = 140_000
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    user = pack(segment_table(3 + words)) + pack(head) + bytes(2 * words)
    for padding, plaintext in ((0, as_bomb(user)), (900, b"")):
        tunnel = Tunnel()
        tunnel.feed_fast(tunnel.frame(plaintext or known_bomb(padding, user)))
        assert tunnel.payloads == [bytes(8 * words)]
        assert tunnel.frame_sizes[0] < 3000


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
    user = KaMessage(b"message").encode() + bytes(1_100_000)
    sender, tunnel = Tunnel(), Tunnel()
    frames = b"".join(sender.frame(known_bomb(900, user)) for _ in range(50))
    tunnel.feed_fast(frames)
    assert tunnel.payloads == [b"message"] * 50
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
        assert unpack(packed, 0, len(filled)) == (filled, len(packed))
        assert len(packed) <= len(pack(filled)) + 2 * len(parts)
        assert len(packed) <= len(pack_literal(filled)) * 1.3 + 2 * len(parts)


def test_both_kinds_of_cipher_give_the_same_bytes(monkeypatch):
    streams = []
    for new_aead in (cipher._new_aead, cipher._CopyingAead):
        monkeypatch.setattr(cipher, "_new_aead", new_aead)
        tunnel = Tunnel()
        assert type(tunnel.source.secure_channel.receiving.aead) is new_aead
        tunnel.feed_fast(mixed_script(3).stream)
        streams.append(
            (tunnel.payloads, tunnel.frame_sizes, [bytes(batch.output) for batch in tunnel.batches])
        )
    assert streams[0] == streams[1]


def test_a_resealer_serves_many_tunnels():
    resealer = Resealer(LARGEST_INPUT)
    tunnels = [Tunnel() for _ in range(3)]
    for size in (5000, 10):
        for number, tunnel in enumerate(tunnels):
            data = tunnel.frame(as_released(bytes((number,)) * size, b"padding"))
            batch = resealer.reseal(tunnel.source, tunnel.sink, memoryview(data), NOW)
            (event,) = peers.receive(tunnel.far, bytes(batch.output))
            assert event.data == bytes((number,)) * size
