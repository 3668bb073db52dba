"""Frames with the padding of released nodes pass without space in the buffer pool, in every role."""

from __future__ import annotations

import os
import socket

import pytest

from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import READ
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import KIB, SMALL_READ
from offset_common.relay.policy import Policy
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitConnection, InitRole, KaMessage, RejectConnection
from tests.relay.harness import Harness, TestPeer, full_pool, running


class OpenMeter:
    """Allows everything, and counts."""

    def __init__(self) -> None:
        self.counted = 0

    def allow(self, most: int, least: int = 1) -> int:
        return most

    def count(self, size: int) -> None:
        self.counted += size

    def end(self) -> None:
        pass


class Metered(Policy):
    """Gives every tunnel end the same meter."""

    def __init__(self) -> None:
        self.shared = OpenMeter()

    def meter(self, source: SocketConnection, sink_key: bytes) -> OpenMeter:
        return self.shared


def send_padded(peer: TestPeer, message: bytes) -> None:
    """Send a message with 40,000 bytes of padding, in two pieces."""
    plaintext = ChannelMessage(os.urandom(40_000), KaMessage(message).encode()).encode()
    frame = encode_frame(peer.protocol.secure_channel.sending.encrypt(plaintext))
    peer.write(frame[:SMALL_READ])
    peer.harness.run_until(lambda: peer.connection.input.kept == SMALL_READ)
    peer.write(frame[SMALL_READ:])


def test_padded_request_passes_without_space(harness: Harness) -> None:
    with full_pool(harness) as pool:
        before = pool.used
        listener = harness.admit()
        send_padded(listener, InitConnection(InitRole.LISTEN).encode())
        harness.run_until(lambda: listener.state is State.LISTENER)
        assert pool.used == before


def test_padded_rejection_passes_without_space(harness: Harness) -> None:
    with full_pool(harness):
        listener = harness.listener()
        near = harness.pending(listener)
        send_padded(listener, RejectConnection(near.key).encode())
        assert near.wait_for_end() == []


def test_padded_early_message_waits_for_space(harness: Harness) -> None:
    with full_pool(harness) as pool:
        before = pool.used
        listener = harness.listener()
        near = harness.pending(listener)
        send_padded(near, b"early")
        harness.run_rounds()
        assert (pool.used, pool.waiting) == (before, 1)
        far = harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
        assert far.receive() == b"early"


def test_whole_frame_passes_a_meter_that_allows_it() -> None:
    policy = Metered()
    with running(make_policy=lambda relay: policy) as harness, full_pool(harness) as pool:
        before = pool.used
        near, far = harness.tunnel()
        message = os.urandom(32 * KIB)
        near.send(message)
        assert far.receive() == message
        assert policy.shared.counted > len(message)
        assert pool.used == before


def test_frame_passes_after_its_socket_was_readable_too_early(harness: Harness) -> None:
    with full_pool(harness):
        near, far = harness.tunnel("2.2.2.2")
        message = os.urandom(32 * KIB)
        frame = near.encrypt(message)
        near.write(frame[:SMALL_READ])
        harness.run_until(lambda: near.connection.bytes_awaited > 1)
        # A system that is short of memory reports this before the rest has arrived.
        harness.loop.request_turn(near.connection, READ)
        harness.run_rounds()
        near.write(frame[SMALL_READ:])
        harness.advance(2.0)
        assert far.receive() == message
        assert not near.connection.polled_coarsely


@pytest.mark.parametrize("half", [True, False])
def test_peer_that_closes_within_a_frame_ends_at_once(harness: Harness, half: bool) -> None:
    with full_pool(harness):
        near, far = harness.tunnel("2.2.2.2")
        near.write(near.encrypt(os.urandom(32 * KIB))[:SMALL_READ])
        harness.run_until(lambda: near.connection.input.kept == SMALL_READ)
        if half:
            near.sock.shutdown(socket.SHUT_WR)
        else:
            near.sock.close()
        assert far.wait_for_end() == []
