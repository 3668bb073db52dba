"""Two connections that listen for the same key."""

from __future__ import annotations

import time

import pytest

from offset_common.identity import Identity
from offset_common.wire.messages import InitRole
from tests.attack.crowd import Crowd, Visitor
from tests.attack.siege import Siege

FIGHT = 6.0  # seconds
MOST_CHANGES = 20  # of the listener, in that time


def test_a_listener_whose_machine_vanished_is_replaced_at_once(siege: Siege) -> None:
    crowd = siege.crowd()
    vanished = crowd.listen()
    vanished.stop_reading()  # nothing tells the relay that it is gone
    began = time.monotonic()
    listener = crowd.listen(vanished.identity)
    (caller,) = crowd.connect(1, listener.identity.public_key)
    assert crowd.run(lambda: bool(listener.messages))
    (acceptor,) = crowd.prove(
        1, [listener.identity], then=lambda each: each.init(InitRole.ACCEPT, caller.identity.public_key)
    )
    caller.send(b"there")
    assert crowd.run(lambda: acceptor.messages == [b"there"])
    assert time.monotonic() - began < 1.0
    siege.relay.wait_for_line("a newer listener has the same key")


@pytest.mark.slow
def test_two_programs_that_fight_over_one_key_make_no_storm(siege: Siege) -> None:
    crowd = siege.crowd()
    identity = Identity.generate()
    used = siege.processor_seconds()
    listens = 0

    def fight_on(fighter: Visitor) -> Visitor:
        """Come back as soon as the other one has won."""
        return crowd.listen(identity) if fighter.ended else fighter

    first = second = crowd.listen(identity)
    second = crowd.listen(identity)
    deadline = time.monotonic() + FIGHT
    while time.monotonic() < deadline:
        before = (first, second)
        first, second = fight_on(first), fight_on(second)
        listens += (first is not before[0]) + (second is not before[1])
        crowd.run_for(0.02)
    assert listens < MOST_CHANGES
    assert siege.processor_seconds() - used < FIGHT / 2
    siege.relay.wait_for_line("two programs listen as")
    assert siege.count_lines("two programs listen as") == 1
    assert siege.count_lines("a newer listener has the same key") < MOST_CHANGES
    assert_served(crowd, first, second)


def assert_served(crowd: Crowd, first: Visitor, second: Visitor) -> None:
    """See that a connect for the key that is fought over is announced to one of the two."""
    crowd.run_for(2.5)  # what waits takes effect
    (caller,) = crowd.connect(1, first.identity.public_key)
    assert crowd.run(lambda: bool(first.messages or second.messages))
    assert not caller.ended


@pytest.mark.slow
def test_listening_anew_again_and_again_takes_nothing_from_others(siege: Siege) -> None:
    crowd = siege.crowd()
    identity = Identity.generate()
    crowd.prove(400, [identity], then=lambda each: each.init(InitRole.LISTEN))
    crowd.run_for(3.0)
