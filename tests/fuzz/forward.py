"""Forwarder.forward against the slow path: the same payloads, the same fault, the same state after it."""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator
from typing import Any

from offset_common.channel.connection import Connection
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage
from tests.channel import peers
from tests.channel.layouts import ENCODERS, as_unknown
from tests.channel.tunnels import NOW, Tunnel, assert_same
from tests.fuzz import vectors
from tests.fuzz.script import read_steps, write_steps

MAX_SIZE = 8192


class Step(enum.IntEnum):
    """The kinds of frames that the near node sends."""

    PLAINTEXT = 0  # encrypted
    USER_DATA = 1  # encrypted, in a ChannelMessage with as much padding
    PAYLOAD = 2  # not encrypted
    STREAM = 3  # not in a frame
    REKEY = 4
    RECEIVE_ANSWERS = 5  # to its rekeys, then encrypt under the new key
    CUT = 6  # the relay reads everything sent so far
    TAMPERED = 7  # encrypted, then changed in its last bit


@functools.cache
def _states() -> list[dict[str, Any]]:
    return [connection.export_state() for connection in peers.established(NOW)] * 2


class QuickTunnel(Tunnel):
    """A tunnel of copied connections, so that each input needs no handshakes."""

    def __init__(self) -> None:
        copies = [Connection.import_state(state, peers.Randomness(3)) for state in _states()]
        super().__init__(tuple(copies))
        self.answers_read = 0

    def receive_answers(self) -> None:
        """Pass the relay's new answers to the near node, and keep them for the comparison."""
        answers = self.source.secure_channel.outgoing
        peers.receive(self.near, b"".join(map(encode_frame, answers[self.answers_read :])), NOW)
        self.answers_read = len(answers)


def seeds() -> Iterator[bytes]:
    """Yield recorded plaintexts, alone, in sequence and between rekeys, and each layout."""
    recorded = [(Step.PLAINTEXT, plaintext) for plaintext in vectors.plaintexts() if len(plaintext) < 3000]
    for step in recorded:
        yield write_steps(step)
        yield write_steps((Step.REKEY, b""), step, (Step.RECEIVE_ANSWERS, b""), step, (Step.CUT, b""), step)
    yield write_steps(*recorded[:20])
    for payload in (b"", b"payload", bytes(3000), bytes(range(256)) * 12):
        for padding in (b"", bytes(300), b"\xff" * 900):
            for encode in (*ENCODERS, as_unknown):
                yield write_steps((Step.PLAINTEXT, encode(payload, padding)))
    user = (Step.USER_DATA, KaMessage(b"payload").encode())
    for strange in (Step.PAYLOAD, Step.STREAM, Step.TAMPERED):
        yield write_steps(user, (strange, b"\xff" * 30), user)


def run(data: bytes) -> None:
    """Run the script: frame by frame in the slow tunnel, split at each CUT in the fast one."""
    slow, fast = QuickTunnel(), QuickTunnel()
    uncut = b""
    for kind, content in read_steps(data):
        step = Step(kind % len(Step))
        if slow.error is not None:
            break
        if step is Step.CUT:
            fast.feed_fast(uncut)
            uncut = b""
            continue
        sent = _bytes_of(step, content, slow)
        slow.feed_slow(sent)
        uncut += sent
    fast.feed_fast(uncut)
    assert_same(slow, fast)


def _bytes_of(step: Step, content: bytes, tunnel: QuickTunnel) -> bytes:
    if step is Step.PLAINTEXT:
        return tunnel.frame(content)
    if step is Step.USER_DATA:
        return tunnel.frame(ChannelMessage(content, content).encode())
    if step is Step.TAMPERED:
        encrypted = tunnel.frame(content)
        return encrypted[:-1] + bytes((encrypted[-1] ^ 1,))
    if step is Step.PAYLOAD:
        return encode_frame(content)
    if step is Step.STREAM:
        return content
    if step is Step.REKEY:
        tunnel.near.secure_channel.start_rekey(NOW)
    else:
        tunnel.receive_answers()
    return tunnel.near.data_to_send()
