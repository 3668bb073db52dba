"""Many connects for one listener, and a listener that reads slowly or not at all."""

from __future__ import annotations

import pytest

from offset_common.wire.messages import IncomingConnection
from tests.attack import ATTACKER, BYSTANDER
from tests.attack.conftest import StartAttack
from tests.attack.harness import Attack
from tests.support.channel import KeyPair
from tests.support.encoding import decode
from tests.support.swarm_peer import SwarmPeer

KEYS, PER_KEY = 16, 256  # together the default limit of pending connects for a listener: 4,096


def announced(listener: SwarmPeer) -> list[bytes]:
    """Return the keys that were announced to a listener."""
    return [decode(IncomingConnection, message).public_key for message in listener.messages]


@pytest.mark.slow
def test_one_address_leaves_room_for_pending_connects(attack: Attack) -> None:
    swarm = attack.swarm()
    listener = swarm.listen()
    for _ in range(KEYS):
        swarm.connect(PER_KEY, listener.keys.public_key, [KeyPair()], ATTACKER)
    (caller,) = swarm.connect(1, listener.keys.public_key, source=BYSTANDER)
    assert swarm.run(lambda: caller.keys.public_key in announced(listener) or caller.ended)
    assert not caller.ended
    acceptor = swarm.accept(listener, caller.keys.public_key)
    acceptor.send(b"accepted")
    assert swarm.run(lambda: caller.messages == [b"accepted"])
    attack.check()


@pytest.mark.slow
def test_address_with_many_connects_delays_no_announcement(attack: Attack) -> None:
    swarm, attackers = attack.swarm(receive_buffer=4096), attack.swarm()
    listener = swarm.listen()
    listener.set_reading(False)
    attackers.connect(3000, listener.keys.public_key, [KeyPair() for _ in range(KEYS)], ATTACKER)
    (caller,) = attackers.connect(1, listener.keys.public_key, source=BYSTANDER)
    listener.set_reading(True)
    assert swarm.run(lambda: len(listener.messages) == 3001, 30.0)
    before = announced(listener).index(caller.keys.public_key)
    print(f"\n  {before} of 3,000 announcements came first")
    assert before < 1000
    attack.check()


@pytest.mark.slow
def test_slow_listener_survives_connects_that_come_and_go(start_attack: StartAttack) -> None:
    attack = start_attack("--socket-buffer", "16")
    swarm, attackers = attack.swarm(receive_buffer=4096), attack.swarm()
    listener = swarm.listen()
    listener.set_reading(False)
    rounds, connects = 20, 200
    for _ in range(rounds):
        attackers.connect(connects, listener.keys.public_key, source=ATTACKER)
        attackers.leave()
        listener.send(None)
    assert not listener.ended
    listener.set_reading(True)
    (caller,) = swarm.connect(1, listener.keys.public_key, source=BYSTANDER)
    assert swarm.run(lambda: caller.keys.public_key in announced(listener))
    print(f"\n  {len(listener.messages)} of {rounds * connects} announcements were sent")
    assert len(listener.messages) < rounds * connects / 2
    attack.check()
