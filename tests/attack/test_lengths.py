"""Frames that announce more than a frame may have, and frames that are never finished."""

from __future__ import annotations

import pytest

from offset_common.constants import MAX_FRAME_SIZE, MAX_HANDSHAKE_FRAME_SIZE
from tests.attack import ATTACKER, BYSTANDER
from tests.attack.harness import MIB, Attack
from tests.attack.test_ciphertext import ROLES
from tests.support.swarm_peer import SwarmPeer

LENGTHS = [MAX_FRAME_SIZE + 1, 2**31, 2**40, 2**63, 2**64 - 1]
BEHIND = 64 * MIB
MESSAGE = MIB - 4096  # bytes


def send_oversized_frame(peer: SwarmPeer, length: int) -> None:
    """Announce a length, and send zeros."""
    peer.send_bytes(length.to_bytes(8, "big"))
    parts = iter([bytes(1 << 18)] * (BEHIND >> 18))
    peer.supply(lambda: next(parts, b""))


def start_large_frames(peers: list[SwarmPeer]) -> None:
    """Begin frames of the largest size, and stop."""
    for peer in peers:
        peer.send_bytes(MAX_FRAME_SIZE.to_bytes(8, "big") + bytes(100))


@pytest.mark.parametrize("length", LENGTHS)
def test_oversized_frames_are_rejected(attack: Attack, length: int) -> None:
    swarm = attack.swarm()
    peers = [role(swarm) for role in ROLES]
    for peer in peers:
        send_oversized_frame(peer, length)
    assert swarm.all_end(peers, 3.0)
    attack.check()


@pytest.mark.parametrize("length", [5, MAX_HANDSHAKE_FRAME_SIZE + 1, *LENGTHS])
def test_oversized_handshake_frames_are_rejected(attack: Attack, length: int) -> None:
    swarm = attack.swarm()
    peers = swarm.dial(20)
    for number, peer in enumerate(peers):
        if number % 2:
            peer.start_handshake()
        send_oversized_frame(peer, max(length, MAX_HANDSHAKE_FRAME_SIZE + 1) if number % 2 else length)
    assert swarm.all_end(peers, 3.0)
    attack.check()


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
