"""One key or one address that opens as many connections as it can."""

from __future__ import annotations

import pytest

from tests.attack import ATTACKER, BYSTANDER
from tests.attack.conftest import StartAttack
from tests.support.channel import KeyPair
from tests.support.relay_log import Reason
from tests.support.swarm import count_open


def test_address_limit_keeps_settled_connections(start_attack: StartAttack) -> None:
    attack = start_attack("--per-address", "40")
    swarm = attack.swarm()
    listener = swarm.listen(source=ATTACKER)
    key = listener.keys.public_key
    settled = swarm.connect(30, key, source=ATTACKER)
    assert swarm.run(lambda: len(listener.messages) == 30)
    more = swarm.connect(100, key, source=ATTACKER)
    assert swarm.run(lambda: count_open([*settled, *more]) <= 40)
    assert count_open(settled) == 30
    attack.relay.wait_for_end(reason=f"{Reason.ADDRESS_LIMIT}|{Reason.EVICTED}")
    attack.check()


def test_full_relay_keeps_settled_connections(start_attack: StartAttack) -> None:
    attack = start_attack("--connections", "200", canary=False)
    honest, attackers = attack.swarm(), attack.swarm()
    listeners = honest.listeners(100, BYSTANDER)
    tunnels = honest.tunnels(20, BYSTANDER)
    settled = [*listeners, *(end for pair in tunnels for end in pair)]
    for _ in range(5):
        attackers.connect(100, listeners[0].keys.public_key, source=ATTACKER)
        attackers.prove(100, source=ATTACKER)
        attackers.dial(300, source=ATTACKER)
        honest.run_for(0.2)
    assert attack.relay.state().figures["connections"] <= 200
    attack.relay.wait_for_end(reason=f"{Reason.SERVER_FULL}|{Reason.ADDRESS_LIMIT}|{Reason.EVICTED}")
    assert count_open(settled) == len(settled)
    for near, _ in tunnels:
        near.send(b"still there")
    assert honest.run(lambda: all(far.messages == [b"still there"] for _, far in tunnels))
    attack.check()


@pytest.mark.parametrize("keys", [1, 100], ids=["one key", "many keys"])
def test_greedy_address_leaves_room_for_others(start_attack: StartAttack, keys: int) -> None:
    attack = start_attack("--per-key", "20", "--per-address", "40", "--connections", "80")
    swarm = attack.swarm()
    key = swarm.listen(source=ATTACKER).keys.public_key
    for _ in range(5):
        swarm.connect(100, key, [KeyPair() for _ in range(keys)], ATTACKER)
        swarm.run_for(0.3)
    attack.check()
