"""A connection that ended is freed at once: a search for reference cycles is rare, and may be too late."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest

from offset_common.channel.connection import Connection
from offset_common.relay.connection import SocketConnection
from offset_common.wire.messages import InitRole
from tests.relay.harness import Harness


@pytest.fixture
def no_search() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def live_and_end(harness: Harness) -> None:
    """Open connections in every role, and end them in different ways."""
    listener = harness.listener()
    waiting = harness.pending(listener)
    assert listener.incoming_key() == waiting.key
    waiting.send(os.urandom(20_000))
    unsettled = harness.admit()
    refused = harness.admit().request(InitRole.ACCEPT, bytes(32))
    near, far = harness.tunnel()
    near.send(os.urandom(300_000), b"end")
    assert len(far.receive()) == 300_000
    broken, partner = harness.tunnel()
    broken.write(bytes(7) + b"\x40" + bytes(64))  # not the next message of its key
    stranger = harness.connect_socket()
    stranger.close()
    garbage = harness.connect_socket()
    garbage.send(b"\xff" * 40)
    for peer in (refused, broken, partner):
        peer.wait_for_end()
    for peer in harness.peers:
        peer.sock.close()
    garbage.close()
    harness.run_until(lambda: not len(harness.relay.admission))
    assert unsettled.connection.closed
    harness.peers.clear()
    harness.ends.clear()


def connections() -> list[object]:
    return [each for each in gc.get_objects() if isinstance(each, (SocketConnection, Connection))]


def test_connections_are_freed_when_they_end(harness: Harness, no_search: None) -> None:
    live_and_end(harness)
    # A handshake thread may hold its last job a moment longer.
    harness.run_until(lambda: not connections())
