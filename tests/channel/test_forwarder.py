"""The fast path delivers what the slow path delivers, on every kind of input."""

from __future__ import annotations

import itertools
import random
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.channel.forwarder import Forwarder
from offset_common.constants import ENCRYPTION_OVERHEAD
from offset_common.errors import DecodeError, DecryptionError, PeerError, RekeyError
from offset_common.wire.capnp import discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import FrameTooLargeError, encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack
from tests.channel import peers
from tests.channel.layouts import (
    ENCODERS,
    FILLINGS,
    as_own,
    as_released,
    as_unknown,
    distorted_message,
    mutate,
)
from tests.channel.tunnels import LARGEST_INPUT, NOW, Tunnel, assert_both_paths_agree, assert_same
from tests.wire import oracle

KEEPALIVE = ChannelMessage(b"padding", KaMessage(None).encode()).encode()


class Script:
    """Frames of a near node, made once for several tunnels."""

    def __init__(self) -> None:
        self.tunnel = Tunnel()  # its near node makes the frames; it takes the slow path
        self.frames: list[bytes] = []

    def add(self, frame: bytes) -> None:
        self.frames.append(frame)
        self.tunnel.feed_slow(frame)

    def send(self, plaintext: bytes) -> None:
        self.add(self.tunnel.frame(plaintext))

    def rekey(self) -> None:
        self.tunnel.near.secure_channel.start_rekey(NOW)
        self.add(self.tunnel.near.data_to_send())

    def receive_answer(self) -> None:
        """Pass the relay's answer to the near node, which encrypts under the new key from now on."""
        answers = self.tunnel.source.secure_channel.outgoing
        peers.receive(self.tunnel.near, b"".join(map(encode_frame, answers)), NOW)

    @property
    def stream(self) -> bytes:
        return b"".join(self.frames)


def random_plaintext(chance: random.Random) -> bytes:
    filling = FILLINGS[chance.choice(list(FILLINGS))]
    payload = filling(chance.choice((0, 1, 64, 300, 2500, 9000)))
    padding = chance.randbytes(chance.choice((0, 30, 255, 700, 900, 9000)))
    return chance.choice((*ENCODERS, *ENCODERS, as_unknown))(payload, padding)


def mixed_script(seed: int) -> Script:
    chance = random.Random(seed)
    script = Script()
    rekeyed = False
    for _ in range(25):
        step = chance.randrange(12)
        if step == 0:
            script.send(oracle.packed(ChannelMessage(b"padding", KaMessage(None).encode())))
        elif step == 1:
            script.send(ChannelMessage(chance.randbytes(900), KaMessage(None).encode()).encode())
        elif step == 2 and not rekeyed:
            script.rekey()
            rekeyed = True
        elif step == 3 and script.tunnel.source.secure_channel.outgoing:
            script.receive_answer()
            script.tunnel.source.secure_channel.outgoing.clear()
        else:
            script.send(random_plaintext(chance))
    return script


@pytest.mark.parametrize("seed", range(12))
def test_mixed_frames_pass_wherever_they_are_cut(seed):
    script = mixed_script(seed)
    stream = script.stream
    chance = random.Random(seed)
    for cuts in ([], sorted(chance.randrange(len(stream)) for _ in range(8))):
        slow, fast = assert_both_paths_agree(stream, cuts)
        assert slow.payloads == script.tunnel.payloads != []
        assert sum(batch.taken for batch in fast.batches) == len(stream)
        assert sum(batch.frames for batch in fast.batches) == len(script.frames)


def short_script() -> Script:
    script = Script()
    script.send(as_released(b"first", b"padding"))
    script.send(KEEPALIVE)
    script.send(as_unknown(b"second", b""))
    script.send(as_own(b"third", bytes(5)))
    return script


def test_input_may_be_cut_anywhere():
    stream = short_script().stream
    for cut in range(len(stream) + 1):
        _, fast = assert_both_paths_agree(stream, [cut])
        assert fast.payloads == [b"first", b"second", b"third"]


# Faults: messages before a fault are delivered, and none after it.


def flipped(frame: bytes) -> bytes:
    return frame[:-1] + bytes((frame[-1] ^ 1,))


def next_nonce(tunnel: Tunnel) -> bytes:
    return tunnel.near.secure_channel.sending.next_nonce()


def outer(user: bytes) -> bytes:
    return ChannelMessage(b"padding", user).encode()


UNKNOWN_KIND = pack(segment_table(3)) + pack(struct_pointer(0, 1, 1) + discriminant_word(2) + bytes(8))
FAULTS: dict[str, tuple[Callable[[Tunnel], bytes], type[PeerError]]] = {
    "changed on the way": (lambda tunnel: flipped(tunnel.frame(as_own(b"message", b""))), DecryptionError),
    "sent again": (lambda tunnel: short_script().frames[0], DecryptionError),
    "one left out": (lambda tunnel: (tunnel.frame(KEEPALIVE), tunnel.frame(KEEPALIVE))[1], DecryptionError),
    "empty": (lambda tunnel: encode_frame(b""), DecryptionError),
    "too short": (lambda tunnel: encode_frame(bytes(ENCRYPTION_OVERHEAD - 1)), DecryptionError),
    "a nonce only": (lambda tunnel: encode_frame(next_nonce(tunnel)), DecryptionError),
    "short, the nonce right": (lambda tunnel: encode_frame(next_nonce(tunnel) + bytes(15)), DecryptionError),
    "an empty plaintext": (lambda tunnel: tunnel.frame(b""), DecodeError),
    "no ChannelMessage": (lambda tunnel: tunnel.frame(b"\x10\x05@"), DecodeError),
    "no KaMessage": (lambda tunnel: tunnel.frame(outer(b"no message")), DecodeError),
    "a KaMessage cut short": (
        lambda tunnel: tunnel.frame(outer(KaMessage(b"message").encode()[:-1])),
        DecodeError,
    ),
    "an unknown kind": (lambda tunnel: tunnel.frame(outer(UNKNOWN_KIND)), DecodeError),
    "too large": (lambda tunnel: (2**21).to_bytes(8, "big"), FrameTooLargeError),
    "much too large": (lambda tunnel: b"\xff" * 8, FrameTooLargeError),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("at", [0, 1, 3, 4])
def test_frames_before_a_fault_are_delivered(fault, at):
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
    slow, fast = assert_both_paths_agree(stream + behind, [])
    assert isinstance(slow.error, kind)
    assert not fast.source.established
    assert fast.batches[-1].error is fast.error
    assert sum(batch.taken for batch in fast.batches) == before
    assert_both_paths_agree(stream + behind, [before])
    assert_both_paths_agree(stream, [before + 8])


def test_second_rekey_under_the_old_key_is_refused():
    script = Script()
    script.send(as_own(b"message", b""))
    script.rekey()
    script.tunnel.near.secure_channel._pending = None
    script.rekey()
    slow, _ = assert_both_paths_agree(script.stream, [])
    assert isinstance(slow.error, RekeyError)
    assert slow.payloads == [b"message"]


@pytest.mark.parametrize("seed", range(60))
def test_unusual_plaintexts_get_the_same_result(seed):
    chance = random.Random(seed)
    tunnel = Tunnel()
    stream = b""
    for _ in range(4):
        plaintext = distorted_message(chance) if chance.random() < 0.5 else random_plaintext(chance)
        stream += tunnel.frame(mutate(plaintext, chance) if chance.random() < 0.3 else plaintext)
    assert_both_paths_agree(stream, [])


CONTENT = st.one_of(st.binary(max_size=3000), st.builds(bytes, st.integers(0, 9000)))
CHANGES = st.lists(st.tuples(st.integers(0, 80) | st.integers(0, 9000), st.integers(0, 255)), max_size=2)


@given(CONTENT, CONTENT, st.sampled_from([*ENCODERS, as_unknown]), CHANGES)
@settings(max_examples=250)
def test_both_paths_and_the_oracle_agree(payload, padding, encode, changes):
    packed = bytearray(encode(payload, padding))
    for at, value in changes:
        packed[at % len(packed)] = value
    slow, fast = assert_both_paths_agree(Tunnel().frame(bytes(packed)), [])
    if fast.payloads:
        outer = oracle.read(ChannelMessage, bytes(packed))
        assert isinstance(outer, ChannelMessage) and isinstance(outer.content, bytes)
        assert oracle.read(KaMessage, outer.content) == KaMessage(*fast.payloads)
    if not changes:
        assert fast.payloads == slow.payloads == [payload]


def test_messages_pass_around_the_end_of_our_own_rekey():
    slow, fast = Tunnel(), Tunnel()
    for tunnel, feed in ((slow, slow.feed_slow), (fast, fast.feed_fast)):
        tunnel.source.secure_channel.start_rekey(NOW)
        feed(tunnel.frame(as_own(b"before", b"")))
        peers.receive(tunnel.near, tunnel.source.data_to_send(), NOW)
        answer = tunnel.near.data_to_send()
        feed(
            answer
            + tunnel.frame(as_own(b"under the new key", b""))
            + tunnel.frame(as_own(b"after", b"padding"))
        )
    assert_same(slow, fast)
    assert fast.payloads == [b"before", b"under the new key", b"after"]


# The bounds of a batch.


def test_batch_stops_after_a_tenth_of_a_ms_of_slow_path():
    ticks = itertools.count()
    tunnel = Tunnel()
    tunnel.forwarder = Forwarder(LARGEST_INPUT, lambda: 0.00004 * next(ticks))
    tunnel.feed_fast(b"".join(tunnel.frame(as_unknown(b"message", b"")) for _ in range(7)))
    assert [(batch.frames, batch.more) for batch in tunnel.batches] == [(3, True), (3, True), (1, False)]
    assert tunnel.payloads == [b"message"] * 7


@pytest.mark.parametrize("encode", [as_own, as_unknown], ids=["fast path", "slow path"])
def test_batch_respects_max_frames(encode):
    tunnel = Tunnel()
    frames = [tunnel.frame(encode(b"message", b"")) for _ in range(5)]
    data = memoryview(b"".join(frames))
    counts = []
    for max_frames in (1, 3, 3):
        batch = tunnel.forwarder.forward(tunnel.source, tunnel.sink, data, NOW, max_frames)
        counts.append((batch.frames, batch.more))
        data = data[batch.taken :]
        tunnel.deliver(bytes(batch.output))
    assert counts == [(1, True), (3, True), (1, False)]
    assert tunnel.payloads == [b"message"] * 5
