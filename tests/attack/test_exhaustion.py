"""The system has no descriptors or no memory left."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from offset_common.wire.messages import InitRole
from tests.attack import ATTACKER
from tests.attack.conftest import StartAttack
from tests.attack.harness import MIB
from tests.support.relay_process import RelayProcess
from tests.support.swarm import count_open

FEW_DESCRIPTORS = ("sh", "-c", 'ulimit -n 64 && exec "$@"', "sh")


@pytest.mark.parametrize("proven", [False, True], ids=["silent", "proven"])
def test_descriptor_limit_leaves_room_for_others(start_attack: StartAttack, proven: bool) -> None:
    attack = start_attack(prefix=FEW_DESCRIPTORS)
    swarm = attack.swarm()
    peers = swarm.prove(120, source=ATTACKER) if proven else swarm.dial(120, source=ATTACKER)
    assert swarm.run(lambda: count_open(peers) < 64)
    attack.check()


@contextmanager
def short_of_memory(relay: RelayProcess, left: int) -> Iterator[None]:
    """Limit the relay to `left` more bytes of address space."""
    used = int(Path(f"/proc/{relay.pid}/statm").read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.prlimit(relay.pid, resource.RLIMIT_AS)
    resource.prlimit(relay.pid, resource.RLIMIT_AS, (used + left, hard))
    try:
        yield
    finally:
        resource.prlimit(relay.pid, resource.RLIMIT_AS, (hard, hard))


@pytest.mark.slow
@pytest.mark.parametrize("left", [MIB // 2, 3 * MIB])
def test_missing_memory_ends_connections_or_the_process(start_attack: StartAttack, left: int) -> None:
    attack = start_attack(canary=False)
    swarm = attack.swarm()
    pairs = swarm.tunnels(40)
    key = swarm.listen().keys.public_key
    with short_of_memory(attack.relay, left):
        for near, far in pairs:
            far.set_reading(False)
            near.push(1 << 19, 100)
        swarm.run_for(1.5)
        for peer in [] if not attack.relay.alive else swarm.dial(400):
            peer.on_proven = lambda peer: peer.init(InitRole.CONNECT, key)
            peer.start_handshake()
        swarm.run_for(1.5)
    swarm.leave()
    if attack.relay.alive:
        attack.start_canary()
        attack.check_canary()
        assert attack.relay.stop() == 0
    else:
        assert attack.relay.process.returncode == 70
