"""The hot path delivers what the plain path delivers, on every kind of input."""

from __future__ import annotations

import itertools
import random
from typing import Callable

import pytest

from offset_common.channel import cipher
from offset_common.channel.events import MessageReceived
from offset_common.channel.resealing import Resealer
from offset_common.constants import MAX_FRAME_SIZE, SEAL_OVERHEAD
from offset_common.errors import DecodeError, PeerError, RekeyError, SealError
from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import FrameTooLargeError, encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack
from tests.channel import peers
from tests.channel.layouts import ENCODERS, FILLINGS, as_own, as_released, as_unknown, lying_message, mutate
from tests.channel.tunnels import LARGEST_INPUT, NOW, Tunnel, assert_both_ways_agree
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
    # The node of the script has taken the answers to its rekeys already.
    assert turns.state()._replace(answer=b"") == script.tunnel.state()._replace(answer=b"")


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


def next_nonce(tunnel: Tunnel) -> bytes:
    return tunnel.near.secure_channel.sending.next_nonce()


def outer(user: bytes) -> bytes:
    return ChannelMessage(b"padding", user).encode()


UNKNOWN_KIND = pack(segment_table(3)) + pack(struct_pointer(0, 1, 1) + discriminant_word(2) + bytes(8))
FAULTS: dict[str, tuple[Callable[[Tunnel], bytes], type[PeerError]]] = {
    "changed on the way": (lambda tunnel: flipped(tunnel.frame(as_own(b"message", b""))), SealError),
    "sent again": (lambda tunnel: short_script().frames[0], SealError),
    "one left out": (lambda tunnel: (tunnel.frame(KEEPALIVE), tunnel.frame(KEEPALIVE))[1], SealError),
    "empty": (lambda tunnel: encode_frame(b""), SealError),
    "shorter than its seal": (lambda tunnel: encode_frame(bytes(SEAL_OVERHEAD - 1)), SealError),
    "a nonce only": (lambda tunnel: encode_frame(next_nonce(tunnel)), SealError),
    "short, the nonce right": (lambda tunnel: encode_frame(next_nonce(tunnel) + bytes(15)), SealError),
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
    tunnel.near.secure_channel.sending.counter = at
    frames = [*script.frames[:at], make(tunnel)]
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
    script.tunnel.near.secure_channel._pending = None
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


def test_a_batch_stops_when_the_plain_way_takes_its_time():
    ticks = itertools.count()
    tunnel = Tunnel()
    tunnel.resealer = Resealer(LARGEST_INPUT, lambda: 0.0002 * next(ticks))
    frames = [tunnel.frame(as_unknown(b"message", b"")) for _ in range(7)]
    tunnel.feed_fast(b"".join(frames))
    assert [batch.frames for batch in tunnel.batches] == [3, 3, 1]
    assert [batch.stopped for batch in tunnel.batches] == [True, True, False]
    assert tunnel.batches[0].plain_frames == 3
    assert tunnel.batches[0].plain_size == sum(len(frame) for frame in frames[:3])
    assert tunnel.batches[0].plain_seconds == pytest.approx(0.0006)
    assert tunnel.payloads == [b"message"] * 7


def test_a_costly_frame_that_may_not_be_taken_now_is_left_and_taken_later():
    tunnel = Tunnel()
    payloads = [b"first", b"second", (b"\x05" + bytes(7)) * 2000, b"last"]
    plaintexts = [as_own(payloads[0], b""), as_unknown(payloads[1], bytes(5000)), b"", as_own(b"last", b"")]
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 16_000)
    user = pack(segment_table(2003)) + pack(head) + b"\x01\x05" * 2000
    plaintexts[2] = ChannelMessage(b"", user).encode()
    frames = [tunnel.frame(plaintext) for plaintext in plaintexts]
    data = memoryview(bytearray(b"".join(frames)))
    first = tunnel.resealer.reseal(tunnel.source, tunnel.sink, data, NOW, allow_costly=False)
    assert (first.frames, first.taken) == (2, len(frames[0] + frames[1]))
    assert (first.stopped, first.deferred) == (True, True)
    tunnel.deliver(bytes(first.output))
    rest = tunnel.resealer.reseal(tunnel.source, tunnel.sink, data[first.taken :], NOW)
    assert (rest.frames, rest.stopped, rest.deferred) == (2, False, False)
    tunnel.deliver(bytes(rest.output))
    assert tunnel.payloads == payloads


def test_a_resealer_serves_many_tunnels():
    resealer = Resealer(LARGEST_INPUT, lambda: 0.0)
    tunnels = [Tunnel() for _ in range(3)]
    for size in (5000, 10):
        for number, tunnel in enumerate(tunnels):
            data = tunnel.frame(as_released(bytes((number,)) * size, b"padding"))
            batch = resealer.reseal(tunnel.source, tunnel.sink, memoryview(data), NOW)
            (event,) = peers.receive(tunnel.far, bytes(batch.output))
            assert isinstance(event, MessageReceived)
            assert event.data == bytes((number,)) * size
