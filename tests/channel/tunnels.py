"""A tunnel in memory: a node, the relay's two connections, and the node at the other end.

    near node -- source | relay | sink -- far node

Every tunnel has the same keys and randomness, so what one did can be held against what another did.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

import pytest

from offset_common.channel import secure_channel
from offset_common.channel.events import MessageReceived
from offset_common.channel.resealing import Resealed, Resealer
from offset_common.errors import PeerError
from offset_common.wire.frames import encode_frame
from tests.channel import peers

NOW = 5.0
LARGEST_INPUT = 1024 * 1024


class State(NamedTuple):
    """All that both ways must agree upon, after the same input."""

    payloads: list[bytes]
    error: Optional[tuple[type[PeerError], str]]
    received: int
    sent: int
    keeps_old_key: bool
    established: bool
    heard: float
    spoken: float
    answer: bytes


class Tunnel:
    """Takes what the near node sends, in one of the two ways, and collects what the far node gets."""

    def __init__(self) -> None:
        self.near, self.source = peers.established()
        self.far, self.sink = peers.established()
        self.payloads: list[bytes] = []
        self.frame_sizes: list[int] = []
        self.error: Optional[PeerError] = None
        self.batches: list[Resealed] = []
        self.resealer = Resealer(LARGEST_INPUT, lambda: 0.0, peers.Randomness(3))
        self._kept = b""

    def frame(self, plaintext: bytes) -> bytes:
        """Seal a plaintext as the near node."""
        return encode_frame(self.near.secure_channel.sending.seal(plaintext))

    def feed_plain(self, data: bytes) -> None:
        """Open, decode, encode and seal; the glance of the secure channel is left out."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(secure_channel, "find_user", lambda plaintext: None)
            self.source.receive_data(data)
            try:
                while True:
                    event = self.source.next_event(NOW)
                    if event is None:
                        break
                    assert isinstance(event, MessageReceived)
                    self.sink.send(event.data, NOW)
            except PeerError as error:
                self.error = error
        self.deliver(self.sink.data_to_send())

    def feed_fast(self, data: bytes) -> None:
        """Reseal what came, and what was left of the time before, as the relay's loop does."""
        behind = b"\xff" * 100  # bytes of others stand behind in the shared buffer
        while self.error is None:
            buffer = bytearray(self._kept + data + behind)
            given = bytes(buffer)
            view = memoryview(buffer)[: len(buffer) - len(behind)]
            batch = self.resealer.reseal(self.source, self.sink, view, NOW)
            assert buffer == given
            self.batches.append(batch._replace(output=memoryview(bytes(batch.output))))
            self._kept, data = bytes(view[batch.taken :]), b""
            self.error = batch.error
            self.deliver(bytes(batch.output))
            if not batch.stopped:
                break

    def deliver(self, stream: bytes) -> None:
        at = 0
        while at < len(stream):
            size = 8 + int.from_bytes(stream[at : at + 8], "big")
            self.frame_sizes.append(size - 8)
            at += size
        for event in peers.receive(self.far, stream, NOW):
            assert isinstance(event, MessageReceived)
            self.payloads.append(event.data)

    def state(self) -> State:
        """What came of it."""
        source, sink = self.source, self.sink
        return State(
            self.payloads,
            None if self.error is None else (type(self.error), str(self.error)),
            source.secure_channel.receiving.counter,
            sink.secure_channel.sending.counter,
            source.secure_channel.old_receiving is not None,
            source.established,
            source.channel.last_received,
            sink.channel.last_sent,
            source.data_to_send(),
        )


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
