"""Peers that send nothing at some step, or next to nothing."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from offset_common.constants import HANDSHAKE_TIMEOUT, INIT_TIMEOUT
from tests.attack.harness import Attack
from tests.support.encoding import VERSION_FRAME
from tests.support.relay_log import Reason
from tests.support.swarm_peer import SwarmPeer

LATE = 3.0  # seconds that a deadline may be late under attack


@pytest.mark.parametrize("count", [8, pytest.param(2000, marks=pytest.mark.slow)])
def test_silence_after_the_handshake_delays_nobody(attack: Attack, count: int) -> None:
    swarm = attack.swarm()
    proven = swarm.prove(count)
    assert len(proven) == count
    assert swarm.all_end(proven, INIT_TIMEOUT + LATE)
    attack.relay.wait_for_end(reason=Reason.INIT_TIMEOUT)
    attack.check()


def send_nothing(peer: SwarmPeer) -> None:
    pass


def send_two_bytes(peer: SwarmPeer) -> None:
    peer.send_bytes(bytes(2))


def send_the_version(peer: SwarmPeer) -> None:
    peer.send_bytes(VERSION_FRAME)


def stop_before_the_proof(peer: SwarmPeer) -> None:
    peer.start_handshake()
    peer.fall_silent()


def send_without_end(peer: SwarmPeer) -> None:
    """Send a byte every tenth of a second, of a frame that is too long to be finished in time."""
    peer.send_bytes(VERSION_FRAME + (2000).to_bytes(8, "big"))
    last = time.monotonic()

    def next_byte() -> bytes:
        nonlocal last
        if time.monotonic() - last < 0.1:
            raise BlockingIOError
        last = time.monotonic()
        return b"\0"

    peer.supply(next_byte)


STEPS = [send_nothing, send_two_bytes, send_the_version, stop_before_the_proof]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("steps", "count"), [(STEPS, 2000), ([send_without_end], 100)], ids=["silent", "a byte at a time"]
)
def test_unfinished_handshakes_delay_nobody(
    attack: Attack, steps: list[Callable[[SwarmPeer], None]], count: int
) -> None:
    swarm, start = attack.swarm(), time.monotonic()
    for number, peer in enumerate(swarm.dial(count)):
        steps[number % len(steps)](peer)
    assert swarm.all_end(swarm.peers, start + HANDSHAKE_TIMEOUT + LATE - time.monotonic())
    attack.relay.wait_for_end(reason=Reason.HANDSHAKE_TIMEOUT)
    attack.check()
