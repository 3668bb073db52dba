"""As many handshakes as possible, spoilt handshakes, and connections that never finish theirs.

ATTACK_HANDSHAKES is how many spoilt ones there are: 5,000 by default.
"""

from __future__ import annotations

import os
import random
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attack import ATTACKER, BYSTANDER
from tests.attack.conftest import StartAttack
from tests.attack.harness import Attack
from tests.support.channel import Channel, KeyPair
from tests.support.encoding import VERSION_FRAME, frame
from tests.support.node import Endpoint
from tests.support.peer import TIMEOUT, Peer
from tests.support.swarm_peer import SwarmPeer

CLIENTS = 16
SECONDS = 10.0
MAX_P99 = 0.2  # seconds, of round trips beside a flood
SPOILT = int(os.environ.get("ATTACK_HANDSHAKES", 5000))
SLOW_STEP = 0.95  # seconds of each round trip of a bystander on a slow line
FLOOD = 200  # silent connections opened at a time, again and again
UNPROVEN = 500  # that the relay keeps: fewer than are opened within one step of the slow handshake


@pytest.mark.slow
def test_handshake_flood_delays_no_tunnel(attack: Attack) -> None:
    swarm = attack.swarm()
    clients = swarm.dial(CLIENTS, source=ATTACKER)
    for client in clients:
        client.start_handshake()
    done, deadline = 0, time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        swarm.run_once(0.01)
        for number, client in enumerate(clients):
            if client.proven or client.ended:
                done += client.proven
                client.close()
                (clients[number],) = swarm.dial(1, [client.keys], ATTACKER)
                clients[number].start_handshake()
    report = attack.check_canary()
    print(f"\n  {done / SECONDS:.0f} handshakes a second")
    assert len(report.round_trips) > 100
    assert report.p99 < MAX_P99
    attack.check()


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, 3500])
def test_handshakes_begun_at_once_delay_nobody(attack: Attack, count: int) -> None:
    swarm = attack.swarm()
    data = VERSION_FRAME + frame(Channel(KeyPair()).first_message())
    for _ in range(3):
        for peer in swarm.dial(count):
            peer.send_bytes(data)
        swarm.run_for(1.0)
        swarm.leave()
    attack.check()


@pytest.mark.slow
def test_silent_flood_ends_no_slow_handshake(start_attack: StartAttack) -> None:
    attack = start_attack("--unproven", str(UNPROVEN))
    swarm, keys = attack.swarm(), [KeyPair()]
    opened = 0
    with ThreadPoolExecutor(1) as pool:
        bystander = pool.submit(shake_hands_slowly, attack.relay.endpoint())
        while not bystander.done():
            opened += len(swarm.dial(FLOOD, keys, ATTACKER))
            if len(swarm.peers) > 2 * UNPROVEN:
                for peer in swarm.peers[:FLOOD]:
                    peer.close()
                del swarm.peers[:FLOOD]
    print(f"\n  {opened} silent connections")
    bystander.result()
    assert opened > 4 * UNPROVEN
    attack.check()


def shake_hands_slowly(relay: Endpoint) -> None:
    """Finish a handshake in which each step takes as long as on a very slow line."""
    with socket.create_connection(relay.address, TIMEOUT, (BYSTANDER, 0)) as sock:
        peer = Peer(sock, Channel(KeyPair(), relay.public_key))
        time.sleep(SLOW_STEP)
        peer.exchange_versions()
        time.sleep(SLOW_STEP)
        peer.send_frame(peer.channel.first_message())
        theirs = peer.receive_frame()
        time.sleep(SLOW_STEP)
        peer.send_frame(peer.channel.prove(theirs))
        peer.channel.finish(peer.receive_frame())


def flip_a_bit(data: bytes, chance: random.Random) -> bytes:
    spoilt = bytearray(data)
    spoilt[chance.randrange(len(spoilt))] ^= 1 << chance.randrange(8)
    return bytes(spoilt)


def cut_short(data: bytes, chance: random.Random) -> bytes:
    return frame(data[8 : chance.randrange(8, len(data))])


def make_longer(data: bytes, chance: random.Random) -> bytes:
    return frame(data[8:] + chance.randbytes(chance.randrange(1, 1500)))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [flip_a_bit, cut_short, make_longer])
def test_spoilt_handshakes_hurt_nobody(
    attack: Attack, spoil: Callable[[bytes, random.Random], bytes]
) -> None:
    seed = int(os.environ.get("ATTACK_SEED", random.randrange(1 << 30)))
    print(f"ATTACK_SEED={seed}")
    chance = random.Random(seed)
    swarm = attack.swarm()
    for _ in range(SPOILT // 600):
        for peer in swarm.dial(200):
            SpoiltHandshake(peer, spoil, chance)
        swarm.run(lambda: all(peer.ended or peer.proven for peer in swarm.peers), 0.7)
        swarm.leave()
    attack.check()


class SpoiltHandshake:
    """Spoils one of the three frames of a handshake.

    Args:
        peer: whose handshake.
        spoil: changes the frame.
        chance: decides which frame, and how it is changed.
    """

    def __init__(
        self, peer: SwarmPeer, spoil: Callable[[bytes, random.Random], bytes], chance: random.Random
    ) -> None:
        self._spoil = spoil
        self._chance = chance
        self._left = chance.randrange(3)
        peer.start_handshake(self._change)

    def _change(self, data: bytes) -> bytes:
        self._left -= 1
        return self._spoil(data, self._chance) if self._left == -1 else data
