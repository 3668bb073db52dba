"""The rates of a running relay, measured by real tunnels; test_rates.py measures them exactly."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

from tests.support.node import Node, make_tunnel
from tests.support.peer import Ended, Peer
from tests.support.relay_process import RelayProcess, StartRelay

RATE = 2_000_000  # bytes a second
DURATION = 2.0  # seconds
MESSAGE = bytes(20_000)


@contextlib.contextmanager
def tunnel(relay: RelayProcess) -> Iterator[tuple[Peer, Peer]]:
    """Open a tunnel between two fresh nodes."""
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        yield make_tunnel(caller, callee, callee.listen())


@contextlib.contextmanager
def bulk(near: Peer, far: Peer) -> Iterator[list[int]]:
    """Send through a tunnel as fast as it goes; yield a list with the bytes received so far."""
    received = [0]

    def send() -> None:
        with contextlib.suppress(Ended, OSError):
            while True:
                near.send(MESSAGE)

    def receive() -> None:
        with contextlib.suppress(Ended, OSError):
            while True:
                received[0] += len(far.receive())

    threads = [threading.Thread(target=task) for task in (send, receive)]
    for thread in threads:
        thread.start()
    try:
        yield received
    finally:
        near.sock.close()
        far.sock.close()
        for thread in threads:
            thread.join()


def speed(received: list[int], seconds: float) -> float:
    """Return the bytes a second that arrive."""
    started, before = time.monotonic(), received[0]
    time.sleep(seconds)
    return (received[0] - before) / (time.monotonic() - started)


@pytest.mark.parametrize("option", ["--rate", "--rate-per-key"])
def test_option_sets_a_rate(option: str, start_relay: StartRelay) -> None:
    relay = start_relay(option, "2M")
    with tunnel(relay) as ends, bulk(*ends) as received:
        speed(received, 1.0)  # what the system's buffers took
        assert RATE * 0.5 < speed(received, DURATION) < RATE * 1.2
    relay.stop_cleanly()


def test_small_messages_of_others_stay_fast(start_relay: StartRelay) -> None:
    relay = start_relay("--rate", "1M")
    with tunnel(relay) as ends, bulk(*ends) as received, tunnel(relay) as (near, far):
        speed(received, 1.0)
        times = []
        for _ in range(40):
            started = time.monotonic()
            near.send(b"ping")
            assert far.receive() == b"ping"
            times.append(time.monotonic() - started)
            time.sleep(0.05)
        assert sorted(times)[len(times) * 9 // 10] < 0.02, "90 % arrive in 20 ms"
    relay.stop_cleanly()


def test_large_messages_pass_at_a_low_rate(start_relay: StartRelay) -> None:
    relay = start_relay("--rate", "300k")
    with tunnel(relay) as (near, far):
        message = bytes(range(256)) * 3000
        sender = threading.Thread(target=near.send, args=[message])
        started = time.monotonic()
        sender.start()
        assert far.receive() == message
        sender.join()
        assert time.monotonic() - started > 0.9 * len(message) / 300_000
    relay.stop_cleanly()


def test_workers_share_the_rate(start_relay: StartRelay) -> None:
    """One tunnel is in one worker, and gets that worker's half of the rate."""
    relay = start_relay("--rate", "2M", "--workers", "2")
    with tunnel(relay) as ends, bulk(*ends) as received:
        speed(received, 1.0)
        assert RATE * 0.25 < speed(received, DURATION) < RATE * 0.6
    relay.stop_cleanly()
