"""A tunnel in memory: a node, the relay's two connections, and the node at the other end.

    near node -- source | relay | sink -- far node

Every tunnel has the same keys and randomness, so that tunnels can be compared.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.channel.forwarder import Forwarder, ForwardResult
from offset_common.errors import DecodeError, PeerError
from offset_common.wire.frames import encode_frame
from tests.channel import peers

NOW = 5.0
LARGEST_INPUT = 1024 * 1024


class State(NamedTuple):
    """The results that must be the same on both paths after the same input."""

    payloads: list[bytes]
    error: Optional[tuple[type[PeerError], str]]
    received: int
    sent: int
    keeps_old_key: bool
    established: bool
    last_received: float
    last_sent: float
    answer: bytes


class Tunnel:
    """Forwards the frames of the near node on one of the two paths, and collects what the far node receives.

    Args:
        connections: near node, source, far node and sink, established; new ones by default.
    """

    def __init__(self, connections: Optional[tuple[Connection, ...]] = None) -> None:
        if connections is None:
            connections = (*peers.established(), *peers.established())
        self.near, self.source, self.far, self.sink = connections
        self.forwarder = Forwarder(LARGEST_INPUT, lambda: 0.0, peers.Randomness(3))
        self.payloads: list[bytes] = []
        self.frame_sizes: list[int] = []
        self.error: Optional[PeerError] = None
        self.far_error: Optional[DecodeError] = None
        self.batches: list[ForwardResult] = []
        self._kept = b""

    def frame(self, plaintext: bytes) -> bytes:
        """Encrypt a plaintext as the near node."""
        return encode_frame(self.near.secure_channel.sending.encrypt(plaintext))

    def feed_slow(self, data: bytes) -> None:
        """Decrypt, decode, encode and encrypt."""
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
        """Forward the input, after the rest of the previous one, as the relay does."""
        behind = b"\xff" * 100  # bytes of other connections in the shared buffer
        while self.error is None:
            buffer = bytearray(self._kept + data + behind)
            given = bytes(buffer)
            view = memoryview(buffer)[: len(buffer) - len(behind)]
            batch = self.forwarder.forward(self.source, self.sink, view, NOW)
            assert buffer == given
            self.batches.append(batch._replace(output=memoryview(bytes(batch.output))))
            self._kept, data = bytes(view[batch.taken :]), b""
            self.error = batch.error
            self.deliver(bytes(batch.output))
            if not batch.more:
                break

    def deliver(self, stream: bytes) -> None:
        at = 0
        while at < len(stream):
            size = 8 + int.from_bytes(stream[at : at + 8], "big")
            self.frame_sizes.append(size - 8)
            at += size
        self.far.receive_data(stream)
        while self.far_error is None:
            try:
                event = self.far.next_event(NOW)
            except DecodeError as error:
                self.far_error = error
                break
            if event is None:
                break
            assert isinstance(event, MessageReceived)
            self.payloads.append(event.data)

    def state(self) -> State:
        source, sink = self.source, self.sink
        return State(
            self.payloads,
            None if self.error is None else (type(self.error), str(self.error)),
            source.secure_channel.receiving.counter,
            sink.secure_channel.sending.counter,
            source.secure_channel.old_receiving is not None,
            source.established,
            source.last_received,
            sink.last_sent,
            source.data_to_send(),
        )


def assert_same(slow: Tunnel, fast: Tunnel) -> None:
    """Compare two tunnels that got the same input.

    The fast path does not walk large payloads, so their faults are left to the far node.
    """
    assert slow.far_error is None
    if fast.far_error is None:
        assert fast.state() == slow.state()
    else:
        assert fast.payloads == slow.payloads
        assert isinstance(slow.error, DecodeError)
        assert str(fast.far_error) == str(slow.error)


def assert_both_paths_agree(stream: bytes, cuts: list[int]) -> tuple[Tunnel, Tunnel]:
    """Feed a stream, split at some positions, to a tunnel on each path."""
    slow, fast = Tunnel(), Tunnel()
    bounds = [0, *cuts, len(stream)]
    for start, end in zip(bounds, bounds[1:]):
        if slow.error is None:
            slow.feed_slow(stream[start:end])
        fast.feed_fast(stream[start:end])
    assert_same(slow, fast)
    return slow, fast
