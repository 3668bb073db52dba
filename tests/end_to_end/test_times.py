"""The times of docs/protocol.md, sections 6 and 7.1, in real seconds; all run at the same time."""

from __future__ import annotations

import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable, NamedTuple

import pytest

from tests.end_to_end.conftest import NewNode
from tests.end_to_end.peer import Ended, Peer, tunnel
from tests.end_to_end.relay_process import RelayProcess

LATE = 3.0  # seconds: what a quiet connection says is seen a second later, and the machine may be busy


class Life(NamedTuple):
    """How long a connection lived, and when what happened, in seconds."""

    end: float
    spoken: float  # the last keepAlive that was sent
    keepalives: list[float]  # that came


def live_until_end(peer: Peer, speak_for: float = 0.0) -> Life:
    """Wait until the relay ends a connection.

    Args:
        peer: whose connection.
        speak_for: seconds for which it sends a keepAlive every few seconds, whatever comes.
    """
    started = time.monotonic()
    spoken = -5.0
    came: list[float] = []
    peer.sock.settimeout(1.0)
    while True:
        passed = time.monotonic() - started
        assert passed < 60
        if passed < speak_for and passed >= spoken + 5:
            spoken = passed
            peer.send_keepalive()
        try:
            assert peer.receive_any() is None
            came.append(time.monotonic() - started)
        except socket.timeout:
            continue
        except Ended:
            return Life(time.monotonic() - started, spoken, came)


def bytes_until_end(peer: Peer) -> float:
    """Return after how many seconds a connection without a channel ended."""
    started = time.monotonic()
    peer.bytes_until_end()
    return time.monotonic() - started


def about(seconds: float, expected: float) -> bool:
    """Tell whether something took as long as it should, on a machine that may be busy."""
    return expected - 0.1 <= seconds <= expected + LATE


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_every_time_of_the_protocol_is_kept(relay: RelayProcess, new_node: NewNode) -> None:
    def silent_from_the_start() -> None:
        assert about(bytes_until_end(new_node().dial()), 8)

    def silent_within_the_handshake() -> None:
        peer = new_node().dial()
        peer.exchange_versions()
        peer.send_rand_nonce()
        assert about(bytes_until_end(peer), 8)

    def a_byte_at_a_time() -> None:
        peer = new_node().dial()
        peer.exchange_versions()
        started = time.monotonic()
        frame = struct.pack(">Q", 2048) + bytes(2048)
        peer.sock.settimeout(0.01)  # seconds between two bytes
        for byte in frame:
            try:
                peer.send_bytes(bytes([byte]))
                peer.receive_frame()
            except socket.timeout:
                continue
            except Ended:
                break
        assert about(time.monotonic() - started, 8)

    def without_init_connection() -> None:
        assert about(live_until_end(new_node().open()).end, 4)

    def speaking_without_init_connection() -> None:
        assert about(live_until_end(new_node().open(), speak_for=60).end, 4)

    def silent_listener() -> None:
        life = live_until_end(new_node().listen())
        assert about(life.end, 32)
        assert about(life.keepalives[0], 16)

    def speaking_listener() -> None:
        life = live_until_end(new_node().listen(), speak_for=8)
        assert about(life.end, life.spoken + 32)
        assert about(life.keepalives[1], 32)

    def waiting_connect() -> None:
        callee = new_node()
        listener = callee.listen()
        caller = new_node()
        near = caller.connect(callee.public_key)
        assert listener.incoming() == caller.public_key
        alive = threading.Timer(10, listener.send_keepalive)  # or its end would be the connect's
        alive.start()
        life = live_until_end(near, speak_for=60)
        alive.cancel()
        assert about(life.end, 32)
        assert about(life.keepalives[0], 16)

    def silent_tunnel_end() -> None:
        near, far = new_tunnel()
        with ThreadPoolExecutor(2) as pool:
            silent = pool.submit(live_until_end, near)
            partner = pool.submit(live_until_end, far, 60)
            for life in (silent.result(), partner.result()):
                assert about(life.end, 32)
                assert about(life.keepalives[0], 16)

    def tunnel_of_keepalives() -> None:
        near, far = new_tunnel()
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(live_until_end, near, 8)
            other = pool.submit(live_until_end, far, 60)
            for life in (one.result(), other.result()):
                assert about(life.end, one.result().spoken + 32)

    def new_tunnel() -> tuple[Peer, Peer]:
        caller, callee = new_node(), new_node()
        return tunnel(caller, callee, callee.listen())

    scenes: list[Callable[[], None]] = [
        silent_from_the_start,
        silent_within_the_handshake,
        a_byte_at_a_time,
        without_init_connection,
        speaking_without_init_connection,
        silent_listener,
        speaking_listener,
        waiting_connect,
        silent_tunnel_end,
        tunnel_of_keepalives,
    ]
    with ThreadPoolExecutor(len(scenes)) as pool:
        failures = [(scene.__name__, run.exception()) for scene, run in [(s, pool.submit(s)) for s in scenes]]
    assert [(name, error) for name, error in failures if error] == []
    relay.wait_for_line("nothing received for too long")
    relay.wait_for_line("nobody accepted it in time")
