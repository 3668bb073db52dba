"""Resealer.reseal against the plain way: the same payloads, the same fault, the same state behind it."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Optional

from offset_common.channel.resealing import Resealed, Resealer
from offset_common.errors import PeerError
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from tests.channel import peers
from tests.channel.layouts import ENCODERS, as_unknown
from tests.channel.tunnels import LARGEST_INPUT, NOW, Tunnel
from tests.fuzz import established, vectors
from tests.fuzz.script import read_steps, write_steps

MAX_SIZE = 8192


class Step(enum.IntEnum):
    """What the near node sends; the content of the step is what the name says."""

    PLAINTEXT = 0  # sealed
    USER_DATA = 1  # sealed, in a ChannelMessage with as much padding
    PAYLOAD = 2  # not sealed
    STREAM = 3  # not even in a frame
    REKEY = 4
    HEAR_ANSWERS = 5  # to its rekeys, and seal under the new key from here on
    CUT = 6  # the relay reads what came so far
    TAMPERED = 7  # sealed, then changed in its last bit


class QuickTunnel(Tunnel):
    """A tunnel whose handshakes were done before."""

    def __init__(self) -> None:
        self.near, self.source = established.near(), established.relay()
        self.far, self.sink = established.near(), established.relay()
        self.payloads: list[bytes] = []
        self.frame_sizes: list[int] = []
        self.error: Optional[PeerError] = None
        self.batches: list[Resealed] = []
        self.resealer = Resealer(LARGEST_INPUT, lambda: 0.0, peers.Randomness(3))
        self._kept = b""
        self.heard = 0

    def hear_answers(self) -> None:
        """Let the near node read what it has not read of the relay's answers, which stay to be compared."""
        answers = self.source.secure_channel.outgoing
        peers.receive(self.near, b"".join(map(encode_frame, answers[self.heard :])), NOW)
        self.heard = len(answers)


def seeds() -> Iterator[bytes]:
    """Recorded plaintexts, alone, in a row and between rekeys; each layout."""
    recorded = [(Step.PLAINTEXT, plaintext) for plaintext in vectors.plaintexts() if len(plaintext) < 3000]
    for step in recorded:
        yield write_steps(step)
        yield write_steps((Step.REKEY, b""), step, (Step.HEAR_ANSWERS, b""), step, (Step.CUT, b""), step)
    yield write_steps(*recorded[:20])
    for payload in (b"", b"payload", bytes(3000), bytes(range(256)) * 12):
        for padding in (b"", bytes(300), b"\xff" * 900):
            for encode in (*ENCODERS, as_unknown):
                yield write_steps((Step.PLAINTEXT, encode(payload, padding)))
    user = (Step.USER_DATA, KaMessage(b"payload").encode())
    for strange in (Step.PAYLOAD, Step.STREAM, Step.TAMPERED):
        yield write_steps(user, (strange, b"\xff" * 30), user)


def run(data: bytes) -> None:
    """Let the near node send by the script; one tunnel gets it frame by frame, the other by the cuts."""
    plain, fast = QuickTunnel(), QuickTunnel()
    uncut = b""
    for kind, content in read_steps(data):
        step = Step(kind % len(Step))
        if plain.error is not None:
            break
        if step is Step.CUT:
            fast.feed_fast(uncut)
            uncut = b""
            continue
        sent = _bytes_of(step, content, plain)
        plain.feed_plain(sent)
        uncut += sent
    fast.feed_fast(uncut)
    assert fast.state() == plain.state()


def _bytes_of(step: Step, content: bytes, tunnel: QuickTunnel) -> bytes:
    if step is Step.PLAINTEXT:
        return tunnel.frame(content)
    if step is Step.USER_DATA:
        return tunnel.frame(ChannelMessage(content, content).encode())
    if step is Step.TAMPERED:
        sealed = tunnel.frame(content)
        return sealed[:-1] + bytes((sealed[-1] ^ 1,))
    if step is Step.PAYLOAD:
        return encode_frame(content)
    if step is Step.STREAM:
        return content
    if step is Step.REKEY:
        tunnel.near.secure_channel.start_rekey(NOW)
    else:
        tunnel.hear_answers()
    return tunnel.near.data_to_send()
