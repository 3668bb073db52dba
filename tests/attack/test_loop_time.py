"""Connections that keep the event loop busy, and the round trips of others."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.attack import ATTACKER
from tests.attack.harness import Attack
from tests.support.encoding import channel_message, frame, ka_message
from tests.support.swarm import DEFAULT_SOURCE, Swarm
from tests.support.swarm_peer import SwarmPeer

SMALL_KEEPALIVE = channel_message(ka_message(None, released=False), padding=0, released=False)
MAX_ROUND_TRIP = 0.5  # seconds, for the slowest one of a bystander; 0.05 on an idle machine


def keepalives(peer: SwarmPeer, count: int) -> bytes:
    """Return the frames of many small keepalives."""
    assert peer.channel is not None
    seal = peer.channel.sending.seal
    return b"".join(frame(seal(SMALL_KEEPALIVE)) for _ in range(count))


def tunnel_ends(swarm: Swarm, count: int, source: str) -> list[SwarmPeer]:
    return [near for near, _ in swarm.tunnels(count, source)]


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("source", [ATTACKER, DEFAULT_SOURCE], ids=["other address", "same address"])
@pytest.mark.parametrize(("open_peers", "count"), [(Swarm.listeners, 1000), (tunnel_ends, 1500)])
def test_keepalives_at_once_delay_no_tunnel(
    attack: Attack, open_peers: Callable[[Swarm, int, str], list[SwarmPeer]], count: int, source: str
) -> None:
    swarm = attack.swarm()
    peers = open_peers(swarm, count, source)
    burst = [keepalives(peer, 540) for peer in peers]
    for peer, data in zip(peers, burst):
        peer.send_bytes(data)
    assert swarm.run(lambda: not any(peer.unsent_bytes for peer in peers), 60.0)
    report = attack.check_canary()
    assert max(report.round_trips) < MAX_ROUND_TRIP
    assert not any(peer.ended for peer in peers)
    attack.check()


@pytest.mark.slow
def test_bulk_tunnels_delay_no_other_tunnel(attack: Attack) -> None:
    swarm = attack.swarm()
    for near, _ in swarm.tunnels(50, ATTACKER):
        near.push(1_000_000, 1 << 40)
    swarm.run_for(8.0)
    assert max(attack.check_canary().round_trips) < MAX_ROUND_TRIP
    attack.check()
