"""Rekeys on both sides at once under full traffic.

ATTACK_REKEY_SECONDS is how long the traffic lasts: 60 by default.
"""

from __future__ import annotations

import os
import time

import pytest

from tests.attack.conftest import StartAttack
from tests.support.fault_injection import inject

SECONDS = float(os.environ.get("ATTACK_REKEY_SECONDS", 60.0))
INTERVAL = 16  # seconds between the relay's rekeys, instead of an hour


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
