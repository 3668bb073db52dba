"""Handshakes as many as there can be, and handshakes that are spoilt.

ATTACK_HANDSHAKES is how many spoilt ones there are: 5,000 by default.
"""

from __future__ import annotations

import os
import random
import time
from typing import Callable

import pytest

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.identity import Identity
from offset_common.wire.frames import encode_frame
from tests.attack.crowd import Visitor
from tests.attack.siege import Siege

CLIENTS = 16
SECONDS = 10.0
SLOWEST_ROUND_TRIP = 0.05  # seconds, of 99 %
SPOILT = int(os.environ.get("ATTACK_HANDSHAKES", 5000))


@pytest.mark.slow
def test_neighbours_are_served_quickly_during_a_flood_of_handshakes(siege: Siege) -> None:
    crowd = siege.crowd()
    identities = [Identity.generate() for _ in range(CLIENTS)]
    clients = crowd.dial(CLIENTS, identities)
    done = 0
    for client in clients:
        client.begin_handshake()
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        crowd.run_once(0.01)
        for number, client in enumerate(clients):
            if client.proven or client.ended:
                done += client.proven
                client.end()
                (clients[number],) = crowd.dial(1, [client.identity])
                clients[number].begin_handshake()
    report = siege.end_watch()
    print(f"\n  {done / SECONDS:.0f} handshakes a second, p99 {siege.p99 * 1000:.1f} ms")
    assert done > 100 * SECONDS
    assert len(report["round_trips"]) > 100
    assert siege.p99 < SLOWEST_ROUND_TRIP


@pytest.mark.slow
@pytest.mark.parametrize("count", [1000, pytest.param(3500, marks=pytest.mark.slow)])
def test_very_many_who_begin_a_handshake_at_the_same_moment_do_not_delay_the_next(
    siege: Siege, count: int
) -> None:
    crowd = siege.crowd()
    frame = encode_frame(Connection(Identity.generate(), 0.0).channel.outgoing[1])
    for _ in range(3):
        visitors = crowd.dial(count)
        for visitor in visitors:
            visitor.send_bytes(VERSION_FRAME + frame)
        crowd.run_for(1.0)
        crowd.leave()


def flip_a_bit(frame: bytes, random_number: random.Random) -> bytes:
    spoilt = bytearray(frame)
    spoilt[random_number.randrange(len(spoilt))] ^= 1 << random_number.randrange(8)
    return bytes(spoilt)


def cut_short(frame: bytes, random_number: random.Random) -> bytes:
    return encode_frame(frame[8 : random_number.randrange(8, len(frame))])


def make_longer(frame: bytes, random_number: random.Random) -> bytes:
    return encode_frame(frame[8:] + random_number.randbytes(random_number.randrange(1, 1500)))


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [flip_a_bit, cut_short, make_longer])
def test_spoilt_handshakes_end_or_are_none_and_hurt_nobody(
    siege: Siege, spoil: Callable[[bytes, random.Random], bytes]
) -> None:
    seed = int(os.environ.get("ATTACK_SEED", random.randrange(1 << 30)))
    print(f"ATTACK_SEED={seed}")
    chance = random.Random(seed)
    left = SPOILT // 3
    while left > 0:
        crowd = siege.crowd()
        some = crowd.dial(min(200, left))
        left -= len(some)
        for visitor in some:
            spoil_handshake(visitor, spoil, chance)
        crowd.run(lambda some=some: all(each.ended or each.proven for each in some), 0.7)  # type: ignore[misc]
        crowd.leave()


def spoil_handshake(
    visitor: Visitor, spoil: Callable[[bytes, random.Random], bytes], chance: random.Random
) -> None:
    """Spoil one of the frames that the visitor sends from now on."""
    which = chance.randrange(3)
    sent = 0
    visitor.connection = Connection(visitor.identity, time.monotonic())
    connection = visitor.connection

    def send_connection() -> None:
        nonlocal sent
        for payload in connection.channel.outgoing:
            frame = encode_frame(payload)
            visitor.send_bytes(spoil(frame, chance) if sent == which else frame)
            sent += 1
        connection.channel.outgoing.clear()

    visitor.send_connection = send_connection  # type: ignore[method-assign]
    send_connection()
