"""Sealed messages that are not the next one, or not sealed at all."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from offset_common.constants import ENCRYPTION_OVERHEAD
from tests.attack.harness import Attack
from tests.support.encoding import frame
from tests.support.relay_log import Reason
from tests.support.swarm import Swarm
from tests.support.swarm_peer import SwarmPeer


def awaiting_init(swarm: Swarm) -> SwarmPeer:
    return swarm.prove()[0]


def listener(swarm: Swarm) -> SwarmPeer:
    return swarm.listen()


def pending_connect(swarm: Swarm) -> SwarmPeer:
    return swarm.connect(1, swarm.listen().keys.public_key)[0]


def tunnel_end(swarm: Swarm) -> SwarmPeer:
    return swarm.tunnels(1)[0][0]


ROLES: list[Callable[[Swarm], SwarmPeer]] = [awaiting_init, listener, pending_connect, tunnel_end]


def with_a_bad_tag(peer: SwarmPeer) -> bytes:
    data = peer.seal(b"x")
    return data[:-1] + bytes([data[-1] ^ 1])


def with_a_flipped_bit(peer: SwarmPeer) -> bytes:
    data = bytearray(peer.seal(b"x"))
    data[len(data) // 2] ^= 16
    return bytes(data)


def with_another_nonce(peer: SwarmPeer) -> bytes:
    data = peer.seal(b"x")
    return data[:8] + os.urandom(12) + data[20:]


def after_a_gap(peer: SwarmPeer) -> bytes:
    peer.seal(b"x")
    return peer.seal(b"x")


def cut_short(peer: SwarmPeer) -> bytes:
    return frame(peer.seal(b"x")[8:-1])


def made_longer(peer: SwarmPeer) -> bytes:
    return frame(peer.seal(b"x")[8:] + b"\0")


def random_bytes(peer: SwarmPeer) -> bytes:
    return frame(os.urandom(1000))


SPOILT = [
    with_a_bad_tag,
    with_a_flipped_bit,
    with_another_nonce,
    after_a_gap,
    cut_short,
    made_longer,
    random_bytes,
]


@pytest.mark.parametrize("role", ROLES)
def test_short_or_spoilt_frames_end_their_connection(
    attack: Attack, role: Callable[[Swarm], SwarmPeer]
) -> None:
    swarm = attack.swarm()
    peers = []
    for size in range(ENCRYPTION_OVERHEAD):
        peers.append(role(swarm))
        peers[-1].send_frame(os.urandom(size))
    for spoil in SPOILT:
        peers.append(role(swarm))
        peers[-1].send_bytes(spoil(peers[-1]))
    assert swarm.all_end(peers, 2.0), [place for place, peer in enumerate(peers) if not peer.ended]
    attack.relay.wait_for_end(reason=Reason.PROTOCOL_ERROR)
    attack.check()


def test_replayed_message_ends_the_tunnel(attack: Attack) -> None:
    swarm = attack.swarm()
    near, far = swarm.tunnels(1)[0]
    near.send_bytes(near.seal(b"once") * 2)
    assert swarm.all_end([near, far], 3.0)
    assert far.messages == [b"once"]
    attack.check()
