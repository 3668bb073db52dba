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
    """Feed a stream, cut at some places, in both ways, and mixed."""
    plain, fast, turns = Tunnel(), Tunnel(), Tunnel()
    bounds = [0, *cuts, len(stream)]
    for number, (start, end) in enumerate(zip(bounds, bounds[1:])):
        if plain.error is None:
            plain.feed_plain(stream[start:end])
        fast.feed_fast(stream[start:end])
        if number % 2 or turns.error:
            turns.feed_fast(stream[start:end])
    want = plain.state()
    assert fast.state() == want
    assert sum(batch.frames for batch in fast.batches) + (plain.error is not None) >= len(plain.payloads)
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
