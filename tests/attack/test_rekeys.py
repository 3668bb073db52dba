"""Rekeys: more than are answered, and on both sides at once under full traffic.

ATTACK_REKEY_SECONDS is how long the traffic lasts: 60 by default.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.conftest import StartAttack
from tests.attack.harness import Attack
from tests.support.fault_injection import inject
from tests.support.relay_log import Reason
from tests.support.swarm import Swarm
from tests.support.swarm_peer import SwarmPeer

SECONDS = float(os.environ.get("ATTACK_REKEY_SECONDS", 60.0))
INTERVAL = 16  # seconds between the relay's rekeys, instead of an hour
MAX_REKEYS = 8  # that a stranger can bring the relay to answer


def is_rekeyed(peer: SwarmPeer) -> bool:
    """Return whether the relay has answered, or ended the connection."""
    return peer.ended or peer.channel is None or not peer.channel.rekey_pending


ROLES: dict[str, Callable[[Swarm], list[SwarmPeer]]] = {
    "awaiting init": lambda swarm: swarm.prove(16),
    "listener": lambda swarm: swarm.prove(16, then=lambda peer: peer.init(InitRole.LISTEN)),
    "tunnel": lambda swarm: [near for near, _ in swarm.tunnels(16)],
}


@pytest.mark.parametrize("waits", [True, False], ids=["waits for answers", "does not wait"])
@pytest.mark.parametrize("role", ROLES)
def test_endless_rekeys_end_their_connection(attack: Attack, role: str, waits: bool) -> None:
    swarm = attack.swarm()
    peers = ROLES[role](swarm)
    for _ in range(MAX_REKEYS):
        for peer in peers:
            if not peer.ended and peer.channel is not None:
                peer.start_rekey()
        if waits:
            assert swarm.run(lambda: all(is_rekeyed(peer) for peer in peers), 3.0)
    assert swarm.all_end(peers, 3.0)
    assert not waits or attack.relay.wait_for_end(reason=Reason.REKEYS)
    attack.check()


@pytest.mark.slow
@pytest.mark.timeout(SECONDS + 60.0)
def test_both_sides_may_rekey_at_once_under_full_traffic(start_attack: StartAttack) -> None:
    fault = f"offset_common.channel.secure_channel:REKEY_INTERVAL={INTERVAL}"
    attack = start_attack(prefix=inject(fault))
    swarm = attack.swarm()
    ends = [end for pair in swarm.tunnels(3) for end in pair]
    for end in ends:
        end.push(4096, 1 << 40)
    received = [0] * len(ends)
    deadline, next_rekey = time.monotonic() + SECONDS, time.monotonic() + INTERVAL - 0.05
    while time.monotonic() < deadline:
        swarm.run_for(0.05)
        if time.monotonic() >= next_rekey:
            next_rekey += INTERVAL + 1
            for end in ends:
                end.start_rekey()
        for place, end in enumerate(ends):
            expected = range(received[place], received[place] + len(end.messages))
            assert end.numbers == list(expected)
            received[place] = expected.stop
            end.messages.clear()
    assert not any(end.ended for end in ends)
    assert min(received) > 1000
    attack.check()
