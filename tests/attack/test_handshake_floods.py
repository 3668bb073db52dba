"""As many handshakes as possible, and connections that never complete theirs."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.attack import ATTACKER, BYSTANDER
from tests.attack.conftest import StartAttack
from tests.attack.harness import Attack
from tests.support.channel import Channel, KeyPair
from tests.support.node import Endpoint
from tests.support.peer import TIMEOUT, Peer

CLIENTS = 16
SECONDS = 10.0
MAX_P99 = 0.2  # seconds, of round trips beside a flood
SLOW_STEP = 0.95  # seconds of each round trip of a bystander on a slow line
FLOOD = 200  # silent connections opened at a time, again and again
UNPROVEN = 500  # connections that the relay keeps: fewer than are opened in one step of the slow handshake


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
