"""Large frames that are never completed."""

from __future__ import annotations

import pytest

from offset_common.constants import MAX_FRAME_SIZE
from tests.attack import ACCOMPLICE, ATTACKER, BYSTANDER
from tests.attack.harness import KIB, MIB, Attack
from tests.support.swarm_peer import SwarmPeer

MESSAGE = MIB - 4096  # bytes


def start_large_frames(peers: list[SwarmPeer]) -> None:
    """Send the start of a frame of the largest size on each connection."""
    for peer in peers:
        peer.send_bytes(MAX_FRAME_SIZE.to_bytes(8, "big") + bytes(100))


@pytest.mark.slow
def test_unfinished_frames_keep_no_large_message_out(attack: Attack) -> None:
    swarm = attack.swarm()
    near, far = swarm.tunnels(1, BYSTANDER)[0]
    start_large_frames([near for near, _ in swarm.tunnels(30, ATTACKER)])
    near.send(bytes(MESSAGE))
    assert swarm.run(lambda: bool(far.messages), 30.0)
    attack.check()


@pytest.mark.slow
def test_slow_large_message_outlives_unfinished_frames(attack: Attack) -> None:
    swarm = attack.swarm()
    near, far = swarm.tunnels(1, BYSTANDER)[0]
    strangers = [caller for caller, _ in swarm.tunnels(60, ATTACKER)]
    data = near.seal(bytes(MESSAGE))
    size = len(data) // 50
    for start in range(0, len(data), size):
        near.send_bytes(data[start : start + size])
        swarm.run_for(0.1)
        if not start:
            start_large_frames(strangers)
    assert swarm.run(lambda: far.messages == [bytes(MESSAGE)]), (near.ended, far.ended)
    attack.check()


@pytest.mark.slow
def test_unfinished_frames_to_another_address_leave_space(attack: Attack) -> None:
    swarm = attack.swarm()
    near, far = swarm.tunnels(1, BYSTANDER)[0]
    ends = swarm.tunnels(300, ATTACKER, ACCOMPLICE)
    for stranger, _ in ends:
        stranger.send(bytes(8 * KIB))  # from now on, the relay expects frames of this size
    assert swarm.run(lambda: all(other.messages for _, other in ends), 30.0)
    for stranger, _ in ends:
        stranger.send_bytes(MAX_FRAME_SIZE.to_bytes(8, "big") + bytes(64 * KIB))
    swarm.run_for(1.0)
    near.send(bytes(32 * KIB))
    assert swarm.run(lambda: bool(far.messages), 5.0)
    attack.check()
