"""Limits in all, for each address and for each key, and who gives way to whom."""

from __future__ import annotations

from typing import Optional, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from offset_common.relay.link import Link
from offset_common.relay.origins import OVERDRAFT, Counts, Origins, origin_of, show_address
from offset_common.relay.reasons import CloseReason

from offset_common.relay.limits import Limits


class FakeLink:
    """What of a link is counted."""

    def __init__(self, origin: str, key: bytes = b"") -> None:
        self.origin = origin
        self.key = key


def enter(origins: Origins, origin: str = "1.1.1.1") -> Link:
    """Let a connection enter that nobody is in the way of."""
    link = cast(Link, FakeLink(origin))
    assert origins.reason_to_refuse(origin) is None
    origins.enter(link)
    return link


def prove(origins: Origins, link: Link, key: bytes) -> Link:
    """Prove a connection that may stay."""
    link.key = key
    origins.busy(link)
    origins.back(link, True)
    assert origins.prove(link) == (None, None)
    return link


def settle(origins: Origins, key: bytes, origin: str = "1.1.1.1") -> Link:
    """Let a connection enter, be proven and have its role."""
    link = prove(origins, enter(origins, origin), key)
    origins.settle(link)
    return link


@pytest.mark.parametrize(
    ("host", "origin", "shown"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7:99"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7:99"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", "[2001:db8:1:2:3:4:5:6]:99"),
        ("2001:db8:1:2::1", "2001:db8:1:2::/64", "[2001:db8:1:2::1]:99"),
        ("::1", "::/64", "[::1]:99"),
        ("fe80::1%eth0", "fe80::/64", "[fe80::1%eth0]:99"),
        ("::ffff:1:2", "::/64", "[::ffff:1:2]:99"),
    ],
)
def test_an_origin_is_an_ipv4_address_or_an_ipv6_network(host: str, origin: str, shown: str) -> None:
    assert origin_of((host, 99, 0, 0)) == origin
    assert show_address((host, 99, 0, 0)) == shown


def test_below_its_limits_nobody_gives_way() -> None:
    origins = Origins(Limits(connections=2, connections_per_address=2))
    enter(origins)
    assert origins.in_the_way("1.1.1.1") == []
    assert origins.reason_to_refuse("1.1.1.1") is None


def test_at_the_limit_of_all_the_unproven_give_way_oldest_first_then_the_roleless() -> None:
    origins = Origins(Limits(connections=4))
    roleless = [prove(origins, enter(origins), b"b") for _ in range(2)]
    old, young = enter(origins, "2.2.2.2"), enter(origins)
    for expected in (old, young, *roleless):
        assert origins.reason_to_refuse("3.3.3.3") is None
        assert origins.in_the_way("3.3.3.3") == [expected]
        origins.leave(expected)
        origins.busy(enter(origins, "3.3.3.3"))


def test_where_all_are_settled_a_few_may_prove_themselves_and_no_more() -> None:
    origins = Origins(Limits(connections=2))
    for _ in range(2):
        settle(origins, b"a")
    for _ in range(OVERDRAFT):
        assert origins.in_the_way("3.3.3.3") == []
        origins.busy(enter(origins, "3.3.3.3"))
    assert origins.reason_to_refuse("3.3.3.3") is CloseReason.LIMIT_TOTAL


def fill(origins: Origins, key: bytes, count: int, origin: str) -> list[Link]:
    """Settle connections of one key from one address."""
    return [settle(origins, key, origin) for _ in range(count)]


def newcomer(origins: Origins, key: bytes, origin: str) -> tuple[Optional[CloseReason], Optional[Link]]:
    """Let one more prove itself; return what comes of it."""
    link = enter(origins, origin)
    link.key = key
    return origins.prove(link)


def test_where_all_is_full_the_greediest_key_of_the_greediest_address_gives_way() -> None:
    origins = Origins(Limits(connections=12))
    fill(origins, b"hub", 5, "1.1.1.1")
    fill(origins, b"some", 2, "2.2.2.2")
    greedy = fill(origins, b"most", 4, "2.2.2.2")
    fill(origins, b"one", 1, "2.2.2.2")
    assert newcomer(origins, b"new", "3.3.3.3") == (None, greedy[-1])


def test_where_all_is_full_the_greediest_address_itself_gets_no_more() -> None:
    origins = Origins(Limits(connections=8))
    fill(origins, b"hub", 3, "1.1.1.1")
    for n in range(5):
        fill(origins, bytes([n]), 1, "2.2.2.2")
    assert newcomer(origins, b"new", "2.2.2.2") == (CloseReason.LIMIT_TOTAL, None)


def test_where_the_system_has_no_room_there_are_no_more_than_it_had_room_for() -> None:
    origins = Origins(Limits())
    links = [enter(origins) for _ in range(100)]
    origins.allow_no_more()
    assert origins.too_many
    for expected in links[:OVERDRAFT]:
        assert origins.oldest_unproven() is expected
        origins.leave(expected)
    assert not origins.too_many
    assert origins.in_the_way("2.2.2.2") == [links[OVERDRAFT]]
    origins.allow_all()
    assert origins.in_the_way("2.2.2.2") == []


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans())))
def test_counts_know_who_has_most(steps: list[tuple[int, bool]]) -> None:
    counts: Counts[int] = Counts()
    plain: dict[int, int] = dict.fromkeys(range(6), 0)
    for item, more in steps:
        if more or plain[item]:
            change = 1 if more else -1
            counts.add(item, change)
            plain[item] += change
        item_with_most, most = counts.most()
        assert most == max(plain.values())
        assert plain[item_with_most] == most if item_with_most is not None else not any(plain.values())
        assert all(counts[each] == count for each, count in plain.items())
        assert bool(counts) is any(plain.values())


def test_what_the_pool_has_does_not_give_way() -> None:
    origins = Origins(Limits(connections=2))
    busy, silent = enter(origins), enter(origins)
    origins.busy(busy)
    assert origins.in_the_way("1.1.1.1") == [silent]
    origins.back(busy, False)
    origins.leave(silent)
    enter(origins)
    assert origins.in_the_way("1.1.1.1") == [busy]


def test_at_the_limit_of_an_address_its_own_give_way_and_no_others() -> None:
    origins = Origins(Limits(connections_per_address=2))
    enter(origins, "2.2.2.2")
    old, _ = enter(origins), enter(origins)
    assert origins.in_the_way("1.1.1.1") == [old]
    assert origins.in_the_way("2.2.2.2") == []


def test_an_address_full_of_settled_connections_has_room_for_a_few_to_prove_themselves() -> None:
    origins = Origins(Limits(connections_per_address=4 * OVERDRAFT))
    for n in range(4 * OVERDRAFT):
        settle(origins, bytes([n]))
    drafted = []
    for _ in range(OVERDRAFT):
        assert origins.in_the_way("1.1.1.1") == []
        drafted.append(enter(origins))
    assert origins.in_the_way("1.1.1.1") == drafted[:1]


def test_an_overdraft_of_an_address_is_none_of_the_limit_of_all() -> None:
    origins = Origins(Limits(connections=4, connections_per_address=3))
    for n in range(3):
        settle(origins, bytes([n]))
    for _ in range(OVERDRAFT):
        origins.busy(enter(origins, "1.1.1.1"))
    stranger = enter(origins, "2.2.2.2")
    assert origins.reason_to_refuse("1.1.1.1") is CloseReason.LIMIT_ADDRESS
    assert origins.in_the_way("3.3.3.3") == [stranger]


def test_at_a_full_address_the_greediest_keys_newest_gives_way_to_another_key() -> None:
    origins = Origins(Limits(connections_per_address=4))
    greedy = [settle(origins, b"greedy") for _ in range(3)]
    settle(origins, b"modest")
    link = enter(origins)
    link.key = b"new"
    assert origins.prove(link) == (None, greedy[-1])


def test_at_a_full_address_the_greediest_key_itself_gets_no_more() -> None:
    origins = Origins(Limits(connections_per_address=4))
    for _ in range(3):
        settle(origins, b"greedy")
    settle(origins, b"modest")
    link = enter(origins)
    link.key = b"greedy"
    assert origins.prove(link) == (CloseReason.LIMIT_ADDRESS, None)
    origins.leave(link)
    again = enter(origins)
    again.key = b"modest"
    assert origins.prove(again)[0] is None


def test_at_an_address_full_of_keys_with_one_connection_each_a_further_key_is_refused() -> None:
    origins = Origins(Limits(connections_per_address=3))
    for n in range(3):
        settle(origins, bytes([n]))
    link = enter(origins)
    link.key = b"new"
    assert origins.prove(link) == (CloseReason.LIMIT_ADDRESS, None)


def test_one_key_has_so_many_connections_wherever_it_comes_from() -> None:
    origins = Origins(Limits(connections_per_key=2))
    first = settle(origins, b"a", "1.1.1.1")
    settle(origins, b"a", "2.2.2.2")
    link = enter(origins, "3.3.3.3")
    link.key = b"a"
    assert origins.prove(link) == (CloseReason.LIMIT_KEY, None)
    origins.leave(link)
    origins.leave(first)
    settle(origins, b"a", "3.3.3.3")


def test_so_many_unproven_and_no_more_at_once() -> None:
    origins = Origins(Limits(unproven=2))
    settle(origins, b"a")
    old, busy = enter(origins), enter(origins)
    origins.busy(busy)
    assert origins.in_the_way("9.9.9.9") == [old]


STEPS = st.lists(
    st.tuples(st.sampled_from(["enter", "busy", "back", "prove", "settle", "leave"]), st.integers(0, 30)),
    max_size=60,
)


@given(STEPS)
def test_whatever_comes_no_limit_is_passed_and_nothing_is_left(
    steps: list[tuple[str, int]],
) -> None:
    limits = Limits(connections=8, connections_per_address=4, connections_per_key=3, unproven=4)
    origins = Origins(limits)
    stage: dict[Link, str] = {}
    for step, number in steps:
        if step == "enter":
            origin = f"1.1.1.{number % 3}"
            if origins.reason_to_refuse(origin) is None:
                for older in origins.in_the_way(origin):
                    assert stage.pop(older) in ("unproven", "roleless")
                    origins.leave(older)
                link = cast(Link, FakeLink(origin))
                origins.enter(link)
                stage[link] = "unproven"
        else:
            wanted = {"busy": "unproven", "back": "busy", "prove": "busy", "settle": "roleless"}.get(step)
            fitting = [link for link, its in stage.items() if wanted in (None, its)]
            if fitting:
                move(origins, stage, fitting[number % len(fitting)], step, number)
        assert len(origins) == len(stage) <= limits.connections + OVERDRAFT
    for link, its in stage.items():
        if its == "busy":
            origins.back(link, False)
        origins.leave(link)
    left = {
        name: value for name, value in vars(origins).items() if name not in ("_limits", "_most") and value
    }
    assert left == {}


def move(origins: Origins, stage: dict[Link, str], link: Link, step: str, number: int) -> None:
    """Take one step in the life of a connection."""
    if step == "busy":
        origins.busy(link)
        stage[link] = "busy"
    elif step == "back":
        origins.back(link, False)
        stage[link] = "unproven"
    elif step == "prove":
        origins.back(link, True)
        link.key = bytes([number % 4])
        reason, gives_way = origins.prove(link)
        stage[link] = "roleless"
        for ended in [link] * (reason is not None) + [gives_way] * (gives_way is not None):
            assert ended is not None
            origins.leave(ended)
            del stage[ended]
    elif step == "settle":
        origins.settle(link)
        stage[link] = "settled"
    elif stage[link] != "busy":
        origins.leave(link)
        del stage[link]
