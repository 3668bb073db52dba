"""Rekeys: as many as are answered, inside early data, and both sides at once under full traffic."""

from __future__ import annotations

import os
import sys
import time

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.conftest import BeginSiege
from tests.attack.crowd import Visitor
from tests.attack.siege import Siege
from tests.attack.supplies import numbers, push

SECONDS = float(os.environ.get("ATTACK_REKEY_SECONDS", 60.0))
INTERVAL = 16.0  # seconds between rekeys, instead of an hour, so that there are some
MOST_REKEYS = 8  # that a stranger can bring the relay to answer


def start_rekey(visitor: Visitor) -> None:
    """Ask for new keys."""
    assert visitor.connection is not None
    visitor.connection.secure_channel.start_rekey(time.monotonic())
    visitor.send_connection()


def rekey_is_done(visitor: Visitor) -> bool:
    """Say whether the relay has answered."""
    return visitor.ended or visitor.connection is None or not visitor.connection.secure_channel.rekey_pending


@pytest.mark.parametrize("role", ["newcomer", "listener", "tunnel"])
def test_who_asks_for_new_keys_without_end_is_ended(siege: Siege, role: str) -> None:
    crowd = siege.crowd()
    if role == "tunnel":
        visitors = [near for near, _ in crowd.tunnels(16)]
    else:
        visitors = crowd.prove(
            16, then=lambda each: each.init(InitRole.LISTEN) if role == "listener" else None
        )
    rounds = 0
    while not all(each.ended for each in visitors) and rounds < 50:
        rounds += 1
        for visitor in visitors:
            if not visitor.ended and visitor.connection is not None:
                start_rekey(visitor)
        assert crowd.run(lambda: all(rekey_is_done(each) for each in visitors), 3.0)
    assert rounds <= MOST_REKEYS
    siege.relay.wait_for_line("more than . rekeys within")


def test_rekeys_sent_without_waiting_for_an_answer_end_their_connection_only(siege: Siege) -> None:
    crowd = siege.crowd()
    for visitor in crowd.prove(20):
        assert visitor.connection is not None
        for _ in range(200):
            visitor.connection.secure_channel._pending = None
            visitor.connection.secure_channel.start_rekey(time.monotonic())
        visitor.send_connection()
    assert crowd.all_end(crowd.visitors, 2.0)


def test_early_data_may_have_a_rekey_inside(siege: Siege) -> None:
    crowd = siege.crowd()
    listener = crowd.listen()
    (caller,) = crowd.connect(1, listener.identity.public_key)
    caller.seal((0).to_bytes(8, "big"))
    start_rekey(caller)
    caller.send((1).to_bytes(8, "big"))
    assert crowd.run(lambda: rekey_is_done(caller))
    caller.send((2).to_bytes(8, "big"))
    (acceptor,) = crowd.prove(
        1, [listener.identity], then=lambda each: each.init(InitRole.ACCEPT, caller.identity.public_key)
    )
    assert crowd.run(lambda: len(acceptor.messages) == 3)
    assert numbers(acceptor.messages) == [0, 1, 2]
    acceptor.send(b"back")
    assert crowd.run(lambda: caller.messages == [b"back"])


@pytest.mark.slow
def test_both_sides_may_start_a_rekey_at_once_under_full_traffic(begin_siege: BeginSiege) -> None:
    hurried = (sys.executable, "-m", "tests.attack.hurried", str(INTERVAL))
    siege = begin_siege(prefix=hurried)
    crowd = siege.crowd()
    pairs = crowd.tunnels(3)
    ends = [each for pair in pairs for each in pair]
    for end in ends:
        push(end, 4096, 1 << 40)
    deadline, next_rekey, received = (
        time.monotonic() + SECONDS,
        time.monotonic() + INTERVAL - 0.05,
        [0] * len(ends),
    )
    while time.monotonic() < deadline:
        crowd.run_for(0.05)
        if time.monotonic() >= next_rekey:
            next_rekey += INTERVAL + 1.0
            for end in ends:
                start_rekey(end)
        for place, end in enumerate(ends):
            count = len(end.messages)
            assert numbers(end.messages) == list(range(received[place], received[place] + count))
            received[place] += count
            end.messages.clear()
    assert not any(each.ended for each in ends)
    assert min(received) > 1000
