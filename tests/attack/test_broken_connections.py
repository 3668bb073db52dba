"""Connections that break: resets at each step, half-closed ones, a byte at a time, a proxy that delays.

ATTACK_PROXY is for how many seconds the proxy is used: 20 by default.
"""

from __future__ import annotations

import os
import random
import threading
import time
from typing import Callable

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.crowd import Crowd, Visitor
from tests.attack.proxy import Proxy
from tests.attack.siege import Siege
from tests.attack.supplies import numbers, push
from tests.end_to_end.peer import Node, Peer, Place, tunnel

PROXY_SECONDS = float(os.environ.get("ATTACK_PROXY", 20.0))
AT_EACH_STEP = 50  # connections


def connected(crowd: Crowd) -> list[Visitor]:
    return crowd.dial(AT_EACH_STEP)


def within_the_first_frame(crowd: Crowd) -> list[Visitor]:
    visitors = crowd.dial(AT_EACH_STEP)
    for visitor in visitors:
        visitor.send_bytes(bytes(5))
    return visitors


def within_the_handshake(crowd: Crowd) -> list[Visitor]:
    visitors = crowd.dial(AT_EACH_STEP)
    for visitor in visitors:
        visitor.begin_handshake()
    return visitors


def after_the_handshake(crowd: Crowd) -> list[Visitor]:
    return crowd.prove(AT_EACH_STEP)


def listening(crowd: Crowd) -> list[Visitor]:
    return crowd.prove(AT_EACH_STEP, then=lambda each: each.init(InitRole.LISTEN))


def waiting(crowd: Crowd) -> list[Visitor]:
    return crowd.connect(AT_EACH_STEP, crowd.listen().identity.public_key)


def waiting_with_early_data(crowd: Crowd) -> list[Visitor]:
    visitors = waiting(crowd)
    for visitor in visitors:
        push(visitor, 16384, 3)
    return visitors


def in_a_tunnel(crowd: Crowd) -> list[Visitor]:
    return [near for near, _ in crowd.tunnels(AT_EACH_STEP)]


def in_a_tunnel_under_traffic(crowd: Crowd) -> list[Visitor]:
    visitors = []
    for near, far in crowd.tunnels(AT_EACH_STEP):
        push(near, 65536, 100)
        push(far, 65536, 100)
        visitors.append(near)
    crowd.run_for(0.2)
    return visitors


def within_a_large_frame(crowd: Crowd) -> list[Visitor]:
    visitors = in_a_tunnel(crowd)
    for visitor in visitors:
        visitor.send_bytes((1 << 20).to_bytes(8, "big") + bytes(70000))
    return visitors


STEPS = [
    connected,
    within_the_first_frame,
    within_the_handshake,
    after_the_handshake,
    listening,
    waiting,
    waiting_with_early_data,
    in_a_tunnel,
    in_a_tunnel_under_traffic,
    within_a_large_frame,
]


def reset(visitor: Visitor) -> None:
    visitor.reset()


def half_close(visitor: Visitor) -> None:
    visitor.supply = None
    visitor.half_close()


@pytest.mark.parametrize("end", [reset, half_close])
@pytest.mark.parametrize("step", STEPS)
def test_a_connection_that_breaks_at_any_step_takes_only_its_tunnel_with_it(
    siege: Siege, step: Callable[[Crowd], list[Visitor]], end: Callable[[Visitor], None]
) -> None:
    crowd = siege.crowd()
    visitors = step(crowd)
    for visitor in visitors:
        end(visitor)
    assert crowd.all_end(visitors, 5.0)
    crowd.leave()
    siege.end_watch()
    assert_nothing_is_left(siege)


def assert_nothing_is_left(siege: Siege) -> None:
    """See that the relay is as it was before."""
    deadline = time.monotonic() + 8.0
    while True:
        state = siege.state()
        if state["connections"] == state["bytes buffered"] == state["registry entries"] == 0:
            return
        assert time.monotonic() < deadline, state
        time.sleep(0.1)


def test_what_was_sent_before_an_end_is_half_closed_is_delivered(siege: Siege) -> None:
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    push(near, 10000, 3)
    near.half_close()
    assert crowd.all_end([near, far])
    assert numbers(far.messages) == [0, 1, 2]


def test_a_tunnel_whose_ends_are_both_half_closed_ends(siege: Siege) -> None:
    crowd = siege.crowd()
    ends = crowd.tunnels(1)[0]
    for end in ends:
        push(end, 10000, 3)
        end.half_close()
    assert crowd.all_end(ends)


def test_a_whole_conversation_may_come_a_byte_at_a_time(
    siege: Siege, monkeypatch: pytest.MonkeyPatch
) -> None:
    def send_bytes(peer: Peer, data: bytes) -> None:
        for byte in data:
            peer.sock.sendall(bytes([byte]))

    monkeypatch.setattr(Peer, "send_bytes", send_bytes)
    with siege.node() as caller, siege.node() as callee:
        near, far = tunnel(caller, callee, callee.listen())
        near.send(b"a byte at a time")
        assert far.receive() == b"a byte at a time"


@pytest.mark.slow
def test_six_hundred_who_send_a_byte_now_and_then_hold_up_nobody(siege: Siege) -> None:
    crowd = siege.crowd()
    for visitor in crowd.dial(600):
        visitor.begin_handshake()
        visitor.connection = None
    frames = bytes(7) + b"\x04" + bytes(4) + (2000).to_bytes(8, "big") + bytes(2000)
    fresh = crowd.dial(600)
    deadline = time.monotonic() + 5.0
    for byte in frames:
        for visitor in fresh:
            if not visitor.ended:
                visitor.send_bytes(bytes([byte]))
        crowd.run_once()
        if time.monotonic() >= deadline:
            break


@pytest.mark.slow
@pytest.mark.timeout(PROXY_SECONDS + 100.0)
def test_a_proxy_that_delays_and_cuts_what_passes_changes_nothing(siege: Siege) -> None:
    seed = int(os.environ.get("ATTACK_SEED", random.randrange(1 << 30)))
    print(f"ATTACK_SEED={seed}")
    with Proxy(siege.place.address, seed) as proxy:
        place = Place(proxy.address, siege.place.public_key)
        deadline = time.monotonic() + PROXY_SECONDS
        talks = [threading.Thread(target=talk, args=(place, deadline, seed + number)) for number in range(4)]
        faults: list[threading.ExceptHookArgs] = []
        previous, threading.excepthook = threading.excepthook, faults.append
        try:
            for each in talks:
                each.start()
            for each in talks:
                each.join(PROXY_SECONDS + 30.0)
        finally:
            threading.excepthook = previous
        assert not any(each.is_alive() for each in talks)
        assert not faults, [repr(each.exc_value) for each in faults]


def talk(place: Place, deadline: float, seed: int) -> None:
    """Let two nodes talk both ways, and see that each message comes whole and in order."""
    chance = random.Random(seed)
    with Node(place, original=True) as caller, Node(place) as callee:
        near, far = tunnel(caller, callee, callee.listen())
        number = 0
        while time.monotonic() < deadline:
            number += 1
            message = number.to_bytes(8, "big") + chance.randbytes(chance.choice([0, 100, 5000, 60000]))
            sender, receiver = chance.choice([(near, far), (far, near)])
            send_and_receive(sender, receiver, message, chance)


def send_and_receive(sender: Peer, receiver: Peer, message: bytes, chance: random.Random) -> None:
    if chance.random() < 0.2:
        sender.send_keepalive()
    sender.send(message)
    assert receiver.receive() == message
