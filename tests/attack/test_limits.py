"""One key or one address that takes all it can get; the limits do what their options say."""

from __future__ import annotations

import time

import pytest

from offset_common.wire.messages import InitRole
from tests.attack import ATTACKER, BYSTANDER
from tests.attack.conftest import StartAttack
from tests.support.channel import KeyPair
from tests.support.relay_log import Reason
from tests.support.swarm import count_open


@pytest.mark.parametrize(
    ("option", "limit", "reason"),
    [("--waiting", 50, Reason.PENDING_LIMIT), ("--per-key", 30, Reason.KEY_LIMIT)],
)
def test_key_has_limited_connections(start_attack: StartAttack, option: str, limit: int, reason: str) -> None:
    attack = start_attack(option, str(limit))
    swarm = attack.swarm()
    connects = swarm.connect(150, swarm.listen().keys.public_key, [KeyPair()])
    assert swarm.run(lambda: count_open(connects) == limit)
    attack.relay.wait_for_end(reason=reason)
    attack.check()


def test_key_has_limited_tunnels(start_attack: StartAttack) -> None:
    attack = start_attack("--tunnels", "20")
    swarm = attack.swarm()
    listener = swarm.listen()
    callers = swarm.connect(60, listener.keys.public_key)
    keys = iter([caller.keys.public_key for caller in callers])
    acceptors = swarm.prove(60, [listener.keys], then=lambda peer: peer.init(InitRole.ACCEPT, next(keys)))
    assert swarm.run(lambda: count_open(acceptors) == 20)
    attack.relay.wait_for_end(reason=Reason.TUNNEL_LIMIT)
    attack.check()


def test_address_limit_keeps_settled_connections(start_attack: StartAttack) -> None:
    attack = start_attack("--per-address", "40")
    swarm = attack.swarm()
    key = swarm.listen(source=ATTACKER).keys.public_key
    settled = swarm.connect(30, key, source=ATTACKER)
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


@pytest.mark.parametrize("proven", [False, True], ids=["silent", "proven"])
@pytest.mark.parametrize("option", ["--per-address", "--connections"])
def test_peers_without_a_role_are_evicted(start_attack: StartAttack, option: str, proven: bool) -> None:
    attack = start_attack(option, "60")
    swarm = attack.swarm()
    for _ in range(5):
        swarm.prove(100) if proven else swarm.dial(50)
        swarm.run_for(0.3)
    attack.relay.wait_for_end(reason=Reason.EVICTED)
    attack.check()


def test_unproven_limit_evicts_the_oldest(start_attack: StartAttack) -> None:
    attack = start_attack("--unproven", "100")
    swarm = attack.swarm()
    first = swarm.dial(100)
    swarm.dial(300)
    assert swarm.all_end(first)
    assert swarm.run(lambda: count_open(swarm.peers) <= 100)
    attack.relay.wait_for_end(reason=Reason.EVICTED)
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


@pytest.mark.slow
def test_thousand_nodes_behind_one_address_are_served(start_attack: StartAttack) -> None:
    attack = start_attack()
    swarm = attack.swarm()
    nodes = swarm.listeners(1000)
    swarm.run_for(1.0)
    assert count_open(nodes) == 1000
    attack.check()


@pytest.mark.slow
def test_reconnecting_address_keeps_nobody_out(start_attack: StartAttack) -> None:
    attack = start_attack()
    swarm = attack.swarm()
    for _ in range(4):
        for _ in range(3):
            swarm.dial(1000)
        swarm.run_for(0.5)
        swarm.leave()
    attack.check()


def test_accept_rate_is_limited(start_attack: StartAttack) -> None:
    attack = start_attack("--accepts", "20", canary=False)
    swarm = attack.swarm()
    peers = swarm.dial(60)
    start = time.monotonic()
    assert swarm.run(lambda: all(peer.received_bytes for peer in peers))
    assert time.monotonic() - start > 0.8  # three seconds of the clock, the first of which had begun
    attack.check()


@pytest.mark.parametrize("threads", [1, 3])
def test_handshake_threads_are_limited(start_attack: StartAttack, threads: int) -> None:
    attack = start_attack("--handshake-threads", str(threads))
    attack.swarm().prove(50)
    assert attack.relay.state().figures["threads"] == threads + 1
    attack.check()
