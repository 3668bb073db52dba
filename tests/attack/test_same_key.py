"""Two programs that listen for the same key."""

from __future__ import annotations

import time

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.harness import Attack
from tests.support.channel import KeyPair
from tests.support.relay_log import Reason

FIGHT = 6.0  # seconds
MAX_LINES = 40  # of the log, about takeovers


@pytest.mark.slow
def test_two_programs_with_one_key_cost_little(attack: Attack) -> None:
    swarm = attack.swarm()
    keys = KeyPair()
    fighters = [swarm.listen(keys)]
    cpu_seconds, deadline = attack.relay.cpu_seconds, time.monotonic() + FIGHT
    while time.monotonic() < deadline:
        fighters += swarm.prove(1, [keys], then=lambda peer: peer.init(InitRole.LISTEN))
        swarm.all_end(fighters[-2:-1], 1.0)
    assert swarm.run(lambda: [peer.ended for peer in fighters[-2:]] == [True, False])
    assert attack.relay.cpu_seconds - cpu_seconds < FIGHT / 2
    assert len(attack.relay.ends(reason=Reason.REPLACED)) < MAX_LINES
    swarm.connect(1, keys.public_key)
    assert swarm.run(lambda: bool(fighters[-1].messages))
    attack.check()
