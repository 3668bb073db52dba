"""Readers that pause, for a while or for ever.

ATTACK_PAUSE is how many seconds the pause of a while takes: 45 by default.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.attack.conftest import StartAttack
from tests.attack.harness import MIB, Attack
from tests.support.relay_log import Reason

PAUSE = float(os.environ.get("ATTACK_PAUSE", 45.0))
KEEPALIVE = 5.0  # seconds between the keepalives that both ends send
PUSHED = 64  # messages
SIZE = MIB - 4096  # bytes of each
STALL = 5.0  # seconds


@pytest.mark.slow
def test_reader_may_pause_while_keepalives_go_on(attack: Attack) -> None:
    swarm = attack.swarm()
    near, far = swarm.tunnels(1)[0]
    far.stop_reading()
    near.push(SIZE, PUSHED)
    end = time.monotonic() + PAUSE
    while time.monotonic() < end:
        swarm.run_for(min(KEEPALIVE, end - time.monotonic()))
        near.send(None)
        far.send(None)
    assert near.unsent_bytes
    far.resume_reading()
    assert swarm.run(lambda: len(far.messages) == PUSHED, 20.0)
    assert far.numbers == list(range(PUSHED))
    far.send(b"still here")
    assert swarm.run(lambda: near.messages == [b"still here"])
    attack.check()


@pytest.mark.slow
def test_stalled_reader_ends_its_tunnel(start_attack: StartAttack) -> None:
    attack = start_attack("--stall", str(STALL))
    swarm = attack.swarm()
    near, far = swarm.tunnels(1)[0]
    far.stop_reading()
    near.push(SIZE, PUSHED)
    assert not swarm.all_end([near], STALL - 1.0)
    assert swarm.all_end([near], 5.0)
    attack.relay.wait_for_end(far.port, "tunnel", Reason.STALLED)
    attack.check()


@pytest.mark.slow
def test_slow_reader_is_not_stalled(start_attack: StartAttack) -> None:
    attack = start_attack("--stall", "2")
    swarm = attack.swarm()
    near, far = swarm.tunnels(1)[0]
    far.stop_reading()
    near.push(SIZE, 24)
    for _ in range(6):
        swarm.run_for(1.0)
        far.resume_reading()
        swarm.run(lambda: len(far.messages) >= 24, 0.02)
        far.stop_reading()
    far.resume_reading()
    assert swarm.run(lambda: len(far.messages) == 24)
    assert not near.ended
    attack.check()
