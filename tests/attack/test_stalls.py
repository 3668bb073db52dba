"""Readers that pause, for a while or for ever.

ATTACK_PAUSE is how many seconds one pauses for a while: 45 by default.
"""

from __future__ import annotations

import os
import time

import pytest

from offset_common.channel.keepalive import _KEEPALIVE
from tests.attack.conftest import BeginSiege
from tests.attack.crowd import Visitor
from tests.attack.siege import MIB, Siege
from tests.attack.supplies import numbers, push

PAUSE = float(os.environ.get("ATTACK_PAUSE", 45.0))
KEEPALIVE = 5.0  # seconds between the keepalives that both ends send
PUSHED = 64  # messages
STALL = 5.0  # seconds


def send_keepalive(visitor: Visitor) -> None:
    """Send a keepAlive, behind what was to be sent before."""
    assert visitor.connection is not None
    visitor.connection.secure_channel.send(_KEEPALIVE)
    visitor.send_connection()


@pytest.mark.slow
def test_a_reader_may_pause_while_the_other_pushes_and_both_send_keepalives(siege: Siege) -> None:
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    far.stop_reading()
    push(near, 1 * MIB, PUSHED)
    end = time.monotonic() + PAUSE
    while time.monotonic() < end:
        crowd.run_for(min(KEEPALIVE, end - time.monotonic()))
        send_keepalive(near)
        send_keepalive(far)
    assert near.waiting_to_send
    far.resume_reading()
    assert crowd.run(lambda: len(far.messages) == PUSHED, 20.0)
    assert numbers(far.messages) == list(range(PUSHED))
    far.send(b"still here")
    assert crowd.run(lambda: near.messages == [b"still here"])


@pytest.mark.slow
def test_a_reader_that_pauses_for_ever_is_ended_after_the_stall_limit_and_its_partner_is_told(
    begin_siege: BeginSiege,
) -> None:
    siege = begin_siege("--stall", str(STALL))
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    far.stop_reading()
    push(near, 1 * MIB, PUSHED)
    assert not crowd.all_end([near], STALL - 1.0)
    assert crowd.all_end([near], 3.0)
    siege.relay.wait_for_line("tunnel: the peer did not read for too long")
    siege.relay.wait_for_line("tunnel: the other end of the tunnel ended")


@pytest.mark.slow
def test_a_reader_that_takes_a_little_now_and_then_is_not_stalled(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--stall", "2")
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    far.stop_reading()
    push(near, 1 * MIB, 24)
    for _ in range(6):
        crowd.run_for(1.0)
        far.resume_reading()
        crowd.run(lambda: len(far.messages) >= 24, 0.02)
        far.stop_reading()
    far.resume_reading()
    assert crowd.run(lambda: len(far.messages) == 24)
    assert not near.ended
