"""One key, or one address, that takes all it can get."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offset_common.identity import Identity
from offset_common.wire.messages import InitRole
from tests.attack.conftest import BeginSiege
from tests.attack.crowd import Crowd, Visitor

ELSEWHERE = "127.0.0.2"


def waiting_connects(
    crowd: Crowd, count: int, identities: Sequence[Identity], source: str = "127.0.0.1"
) -> list[Visitor]:
    """Let connects wait for a listener who accepts nobody."""
    key = crowd.listen(source=source).identity.public_key
    return crowd.connect(count, key, identities, source)


def still_there(crowd: Crowd, visitors: Sequence[Visitor]) -> int:
    """Count those whose connection lives, after a moment."""
    crowd.run_for(0.5)
    return sum(not each.ended for each in visitors)


def test_a_key_may_have_so_many_connects_that_wait_and_no_more(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--waiting", "50")
    crowd = siege.crowd()
    assert still_there(crowd, waiting_connects(crowd, 150, [Identity.generate()])) == 50
    siege.relay.wait_for_line("too many waiting connects")


def test_a_key_may_have_so_many_tunnels_and_no_more(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--tunnels", "20")
    crowd = siege.crowd()
    listener = crowd.listen()
    callers = crowd.connect(60, listener.identity.public_key)
    keys = iter([each.identity.public_key for each in callers])
    acceptors = crowd.prove(60, [listener.identity], then=lambda each: each.init(InitRole.ACCEPT, next(keys)))
    assert still_there(crowd, acceptors) == 20
    siege.relay.wait_for_line("too many tunnels of that key")


def test_a_key_may_have_so_many_connections_and_no_more(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--per-key", "30")
    crowd = siege.crowd()
    identity = Identity.generate()
    assert still_there(crowd, waiting_connects(crowd, 100, [identity])) == 30
    siege.relay.wait_for_line("too many connections of that key")


def test_an_address_may_have_so_many_connections_and_no_more(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--per-address", "40")
    crowd = siege.crowd()
    visitors = waiting_connects(crowd, 120, [Identity.generate() for _ in range(120)], ELSEWHERE)
    assert still_there(crowd, visitors) <= 40
    siege.relay.wait_for_line("too many connections from that address|gave way")


@pytest.mark.parametrize("limit", ["--per-address", "--connections"])
def test_others_get_in_from_the_address_of_the_silent(begin_siege: BeginSiege, limit: str) -> None:
    siege = begin_siege(limit, "60")
    crowd = siege.crowd()
    for _ in range(5):
        crowd.dial(50)
        crowd.run_for(0.3)
    siege.relay.wait_for_line("gave way")


@pytest.mark.parametrize("limit", ["--per-address", "--connections"])
def test_others_get_in_from_the_address_of_those_who_proved_a_key_and_are_silent(
    begin_siege: BeginSiege, limit: str
) -> None:
    siege = begin_siege(limit, "60")
    crowd = siege.crowd()
    for _ in range(5):
        crowd.prove(100)
        crowd.run_for(0.3)
    siege.relay.wait_for_line("gave way")


@pytest.mark.parametrize("limit", ["--per-address", "--connections"])
def test_another_key_gets_in_from_the_address_of_the_greedy(begin_siege: BeginSiege, limit: str) -> None:
    siege = begin_siege(limit, "60")
    crowd = siege.crowd()
    greedy = [Identity.generate()]
    for _ in range(5):
        waiting_connects(crowd, 100, greedy)
        crowd.run_for(0.3)


def test_an_address_with_many_keys_leaves_room_for_others_where_it_could_take_all(
    begin_siege: BeginSiege,
) -> None:
    siege = begin_siege("--connections", "60")
    crowd = siege.crowd()
    for _ in range(5):
        waiting_connects(crowd, 100, [Identity.generate() for _ in range(100)], ELSEWHERE)
        crowd.run_for(0.3)


def test_a_greedy_key_loses_its_newest_connections_and_keeps_its_oldest(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--per-address", "60")
    crowd = siege.crowd()
    greedy = [Identity.generate()]
    first = waiting_connects(crowd, 40, greedy)
    for _ in range(5):
        waiting_connects(crowd, 20, greedy)
    assert not any(each.ended for each in first)


@pytest.mark.slow
def test_a_thousand_nodes_behind_one_address_are_all_let_in_with_the_defaults(
    begin_siege: BeginSiege,
) -> None:
    siege = begin_siege()
    crowd = siege.crowd()
    nodes = crowd.prove(1000, then=lambda each: each.init(InitRole.LISTEN))
    assert still_there(crowd, nodes) == 1000


@pytest.mark.slow
def test_one_address_that_opens_connections_without_end_keeps_nobody_out(begin_siege: BeginSiege) -> None:
    siege = begin_siege()
    crowd = siege.crowd()
    for _ in range(4):
        for _ in range(3):
            crowd.dial(1000)
        crowd.run_for(0.5)
        crowd.leave()
