"""Admission control: the limits for all, an address and a key, and the choice of the evicted connection."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.addresses import peer_address, show_address
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits


@pytest.mark.parametrize(
    ("host", "prefix", "shown"),
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
def test_limits_count_by_ipv4_address_or_ipv6_prefix(host: str, prefix: str, shown: str) -> None:
    assert peer_address((host, 99, 0, 0), 64)[:2] == (shown, prefix)
    assert show_address((host, 99, 0, 0)) == shown


@pytest.mark.parametrize(("bits", "prefix"), [(48, "2001:db8:1::/48"), (128, "2001:db8:1:2:3:4:5:6/128")])
def test_operator_chooses_the_ipv6_prefix(bits: int, prefix: str) -> None:
    assert peer_address(("2001:db8:1:2:3:4:5:6", 99, 0, 0), bits).prefix == prefix


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "protect", "unprotect", "authenticate", "settle", "leave"]),
        st.integers(0, 30),
    ),
    max_size=80,
)


class Life:
    """The model's record of one connection."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.protected = self.settled = False
        self.key = b""


@given(STEPS)
def test_no_limit_is_exceeded_and_nothing_is_left(steps: list[tuple[str, int]]) -> None:
    limits = Limits(connections=8, connections_per_address=4, connections_per_key=3, unauthenticated=5)
    admission: Admission[int] = Admission(limits)
    lives: dict[int, Life] = {}
    evictable: list[int] = []  # the oldest first
    for now, (step, number) in enumerate(steps, 1):
        chosen = list(lives)[number % len(lives)] if lives else None
        if step == "enter":
            address = f"1.1.1.{number % 3}"
            obstacle = admission.make_room(address)
            own = [each for each in evictable if lives[each].address == address]
            full = sum(life.address == address for life in lives.values()) >= 4
            crowded = len(lives) >= 8 or sum(not life.key for life in lives.values()) >= 5
            if isinstance(obstacle, CloseReason):
                assert not (own if full else evictable)
                assert obstacle is (CloseReason.LIMIT_ADDRESS if full else CloseReason.LIMIT_TOTAL)
                assert full or crowded
                continue
            assert (obstacle is not None) == (full or crowded)
            if obstacle is not None:
                mine = [each for each in evictable if lives[each].address == lives[obstacle].address]
                assert obstacle == mine[0], "the oldest of its address"
                addresses = [lives[each].address for each in evictable]
                assert full or len(mine) == max(map(addresses.count, addresses)), "of the address with most"
                admission.leave(obstacle)
                del lives[obstacle]
                evictable.remove(obstacle)
            admission.enter(now, address)
            lives[now] = Life(address)
            evictable.append(now)
        elif chosen is not None:
            life = lives[chosen]
            if step == "protect" and not life.key:
                admission.protect(chosen, True)
                life.protected = True
                evictable = [each for each in evictable if each != chosen]
            elif step == "unprotect" and life.protected:
                admission.protect(chosen, False)
                life.protected = False
                evictable.append(chosen)
            elif step == "authenticate" and not life.key and not life.protected:
                key = bytes([number % 4 + 1])
                reason = admission.authenticate(chosen, key)
                assert (reason is not None) == (sum(each.key == key for each in lives.values()) >= 3)
                step = "leave" if reason is not None else step
                life.key = key if reason is None else b""
            elif step == "settle" and life.key and not life.settled:
                admission.settle(chosen)
                life.settled = True
                evictable.remove(chosen)
            if step == "leave":
                admission.leave(chosen)
                del lives[chosen]
                evictable = [each for each in evictable if each != chosen]
        assert admission.all() == list(lives)
    for connection in list(lives):
        admission.leave(connection)
    left = [
        name for name, value in vars(admission).items() if name not in ("_limits", "_evictable") and value
    ]
    assert left == []
    assert not any(vars(admission._evictable).values())
