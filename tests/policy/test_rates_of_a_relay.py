"""The rates of a running relay, measured by real tunnels; test_rates.py measures them exactly."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.policy.rates import BURST
from tests.support.node import Node, make_tunnel, receive_count, send_all
from tests.support.peer import Peer
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess, StartRelay

RATE = 1_000_000  # bytes a second
SIZE = 20_000  # bytes of a message


@contextlib.contextmanager
def tunnel(relay: RelayProcess) -> Iterator[tuple[Peer, Peer]]:
    """Open a tunnel between two fresh nodes."""
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        yield make_tunnel(caller, callee, callee.listen())


def seconds_for(size: int, near: Peer, far: Peer) -> float:
    """Return how long a tunnel takes for `size` bytes, in messages of SIZE."""
    messages = [bytes(SIZE)] * (size // SIZE)
    started = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_all, near, messages)
        receive_count(far, len(messages))
        sending.result(PATIENCE)
    return time.monotonic() - started


def least_seconds(size: int, rate: float) -> float:
    """Return how long a tunnel takes at least: 90 % of the time, after what an idle bucket has collected."""
    return 0.9 * (size / rate - BURST)


@pytest.mark.parametrize("option", ["--rate", "--rate-per-key"])
def test_option_sets_a_rate(option: str, start_relay: StartRelay) -> None:
    relay = start_relay(option, "1M")
    with tunnel(relay) as ends:
        assert least_seconds(RATE, RATE) < seconds_for(RATE, *ends) < 10
    relay.stop_cleanly()


def test_large_messages_pass_at_a_low_rate(start_relay: StartRelay) -> None:
    relay = start_relay("--rate", "300k")
    with tunnel(relay) as (near, far), ThreadPoolExecutor(1) as pool:
        message = bytes(range(256)) * 1500
        started = time.monotonic()
        sending = pool.submit(near.send, message)
        assert far.receive() == message
        assert time.monotonic() - started > least_seconds(len(message), 300_000)
        sending.result(PATIENCE)
    relay.stop_cleanly()


def test_workers_share_the_rate(start_relay: StartRelay) -> None:
    """One tunnel is in one worker, and gets that worker's half of the rate."""
    relay = start_relay("--rate", "2M", "--workers", "2")
    with tunnel(relay) as ends:
        assert least_seconds(RATE, RATE) < seconds_for(RATE, *ends) < 10
    relay.stop_cleanly()
