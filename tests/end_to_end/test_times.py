"""The times of docs/protocol.md, sections 6 and 7.1, in real seconds; all tests run at the same time."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.support.node import make_tunnel
from tests.support.peer import Ended, Peer
from tests.support.relay_log import Reason
from tests.support.relay_process import NewNode, RelayProcess

LATE = 3.0  # seconds that something may be late: the relay looks once a second, and the machine may be busy


class Life(NamedTuple):
    """When things happened to a connection, in seconds."""

    end: float
    last_sent: float  # the last keepAlive that was sent
    keepalives: list[float]  # received


def live_until_end(peer: Peer, send_for: float = 0.0) -> Life:
    """Wait until the relay ends a connection.

    Args:
        peer: the connection.
        send_for: seconds for which it sends a keepAlive every 5 s.
    """
    started = time.monotonic()
    last_sent = -5.0
    received: list[float] = []
    peer.sock.settimeout(1.0)
    while True:
        passed = time.monotonic() - started
        assert passed < 60
        try:
            if passed < send_for and passed >= last_sent + 5:
                last_sent = passed
                peer.send_keepalive()
            assert peer.receive_any() is None
            received.append(time.monotonic() - started)
        except socket.timeout:
            continue
        except Ended:
            return Life(time.monotonic() - started, last_sent, received)


def seconds_until_close(peer: Peer) -> float:
    """Return after how many seconds the relay closes a connection that has no channel."""
    started = time.monotonic()
    peer.wait_for_close()
    return time.monotonic() - started


def assert_about(seconds: float, expected: float) -> None:
    """Check that something took as long as it should, on a machine that may be busy."""
    assert expected - 0.1 <= seconds <= expected + LATE


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_time_of_the_protocol_is_kept(relay: RelayProcess, new_node: NewNode) -> None:
    def silent_from_the_start() -> None:
        assert_about(seconds_until_close(new_node().dial()), 8)

    def silent_within_the_handshake() -> None:
        peer = new_node().dial()
        peer.exchange_versions()
        peer.send_frame(peer.channel.first_message())
        assert_about(seconds_until_close(peer), 8)

    def a_byte_at_a_time() -> None:
        peer = new_node().dial()
        peer.exchange_versions()
        started = time.monotonic()
        peer.sock.settimeout(0.01)  # seconds between two bytes
        for byte in struct.pack(">Q", 2048) + bytes(2048):
            try:
                peer.send_bytes(bytes([byte]))
                peer.receive_frame()
            except socket.timeout:
                continue
            except Ended:
                break
        assert_about(time.monotonic() - started, 8)

    def without_init() -> None:
        assert_about(live_until_end(new_node().open()).end, 4)

    def keepalives_without_init() -> None:
        assert_about(live_until_end(new_node().open(), send_for=60).end, 4)

    def silent_listener() -> None:
        life = live_until_end(new_node().listen())
        assert_about(life.end, 32)
        assert_about(life.keepalives[0], 16)

    def listener_with_keepalives() -> None:
        life = live_until_end(new_node().listen(), send_for=8)
        assert_about(life.end, life.last_sent + 32)
        assert_about(life.keepalives[1], 32)

    def pending_connect() -> None:
        caller, callee = new_node(), new_node()
        listener = callee.listen()
        near = caller.connect(callee.public_key)
        assert listener.incoming() == caller.public_key
        alive = threading.Timer(10, listener.send_keepalive)  # or the connect would end with its listener
        alive.start()
        life = live_until_end(near, send_for=60)
        alive.cancel()
        assert_about(life.end, 32)
        assert_about(life.keepalives[0], 16)

    def silent_tunnel_end() -> None:
        near, far = new_tunnel()
        with ThreadPoolExecutor(2) as pool:
            for life in pool.map(live_until_end, (near, far), (0, 60)):
                assert_about(life.end, 32)
                assert_about(life.keepalives[0], 16)

    def tunnel_of_keepalives() -> None:
        near, far = new_tunnel()
        with ThreadPoolExecutor(2) as pool:
            first, second = pool.map(live_until_end, (near, far), (8, 60))
        for life in (first, second):
            assert_about(life.end, first.last_sent + 32)

    def new_tunnel() -> tuple[Peer, Peer]:
        caller, callee = new_node(), new_node()
        return make_tunnel(caller, callee, callee.listen())

    scenes: list[Callable[[], None]] = [
        silent_from_the_start,
        silent_within_the_handshake,
        a_byte_at_a_time,
        without_init,
        keepalives_without_init,
        silent_listener,
        listener_with_keepalives,
        pending_connect,
        silent_tunnel_end,
        tunnel_of_keepalives,
    ]
    with ThreadPoolExecutor(len(scenes)) as pool:
        runs = {scene.__name__: pool.submit(scene) for scene in scenes}
    assert {name: run.exception() for name, run in runs.items() if run.exception()} == {}
    relay.wait_for_end(reason=Reason.IDLE)
    relay.wait_for_end(reason=Reason.ACCEPT_TIMEOUT)
