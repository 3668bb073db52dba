"""Connections that break at any step."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attack.harness import Attack
from tests.support.process import wait_until
from tests.support.swarm import Swarm
from tests.support.swarm_peer import SwarmPeer

COUNT = 50  # connections at each step


def connected(swarm: Swarm) -> list[SwarmPeer]:
    return swarm.dial(COUNT)


def within_the_first_frame(swarm: Swarm) -> list[SwarmPeer]:
    peers = swarm.dial(COUNT)
    for peer in peers:
        peer.send_bytes(bytes(5))
    return peers


def within_the_handshake(swarm: Swarm) -> list[SwarmPeer]:
    peers = swarm.dial(COUNT)
    for peer in peers:
        peer.start_handshake()
    return peers


def awaiting_init(swarm: Swarm) -> list[SwarmPeer]:
    return swarm.prove(COUNT)


def listening(swarm: Swarm) -> list[SwarmPeer]:
    return swarm.listeners(COUNT)


def pending(swarm: Swarm) -> list[SwarmPeer]:
    return swarm.connect(COUNT, swarm.listen().keys.public_key)


def pending_with_early_data(swarm: Swarm) -> list[SwarmPeer]:
    peers = pending(swarm)
    for peer in peers:
        peer.push(16384, 3)
    return peers


def in_a_tunnel(swarm: Swarm) -> list[SwarmPeer]:
    return [near for near, _ in swarm.tunnels(COUNT)]


def in_a_tunnel_under_traffic(swarm: Swarm) -> list[SwarmPeer]:
    pairs = swarm.tunnels(COUNT)
    for end in (end for pair in pairs for end in pair):
        end.push(65536, 100)
    swarm.run_for(0.2)
    return [near for near, _ in pairs]


def within_a_large_frame(swarm: Swarm) -> list[SwarmPeer]:
    peers = in_a_tunnel(swarm)
    for peer in peers:
        peer.send_bytes((1 << 20).to_bytes(8, "big") + bytes(70000))
    return peers


STEPS = [
    connected,
    within_the_first_frame,
    within_the_handshake,
    awaiting_init,
    listening,
    pending,
    pending_with_early_data,
    in_a_tunnel,
    in_a_tunnel_under_traffic,
    within_a_large_frame,
]


@pytest.mark.timeout(180)
@pytest.mark.parametrize("end", [SwarmPeer.reset, SwarmPeer.half_close])
def test_broken_connections_leave_nothing_behind(attack: Attack, end: Callable[[SwarmPeer], None]) -> None:
    for step in STEPS:
        swarm = attack.swarm()
        peers = step(swarm)
        for peer in peers:
            peer.supply(bytes)
            end(peer)
        assert swarm.all_end(peers, 30.0), step.__name__
        swarm.leave()
    attack.check_canary()
    empty = {"connections": 0, "registry_entries": 0, "buffered_bytes": 0}
    wait_until(lambda: empty.items() <= attack.relay.state().figures.items(), "an empty relay")
    attack.check()
