"""Admission control: the limits for all, an address and a key, and the choice of the evicted connection."""

from __future__ import annotations

from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.addresses import PeerAddress, peer_address, show_address
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits
from offset_common.relay.policy import Policy
from offset_common.relay.totals import Totals


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
    min_size=40,
    max_size=80,
)


KEPT = ("_limits", "_policy", "_totals", "_evictable")


class Peer:
    """A connection, with the model's record of it."""

    def __init__(self, address: str, admission: Admission) -> None:
        self.address = PeerAddress(f"{address}:99", address, address)
        self.key = b""
        self.protected = self.settled = False
        self.ended: Optional[CloseReason] = None
        self._admission: Any = admission

    def close(self, reason: CloseReason) -> None:
        self.ended = reason
        self._admission.leave(self)


@given(STEPS)
def test_no_limit_is_exceeded_and_nothing_is_left(steps: list[tuple[str, int]]) -> None:
    limits = Limits(connections=8, connections_per_address=4, connections_per_key=2, unauthenticated=5)
    admission: Any = Admission(limits, Policy(), Totals())
    peers: list[Peer] = []
    evictable: list[Peer] = []  # the oldest first
    for step, number in steps:
        if step == "enter":
            new = Peer(f"1.1.1.{number % 3}", admission)
            own = [each for each in evictable if each.address == new.address]
            full = sum(each.address == new.address for each in peers) >= 4
            unproven = sum(not each.key and not each.protected for each in peers)
            crowded = len(peers) >= 8 or unproven >= 5
            reason = admission.make_room(new.address)
            if reason is not None:
                assert not (own if full else evictable)
                assert reason is (CloseReason.LIMIT_ADDRESS if full else CloseReason.LIMIT_TOTAL)
                assert full or crowded
                continue
            evicted = [each for each in peers if each.ended]
            assert len(evicted) == (full or crowded)
            for each in evicted:
                assert each.ended is CloseReason.EVICTED
                mine = [other for other in evictable if other.address == each.address]
                assert each is mine[0], "the oldest of its address"
                addresses = [other.address for other in evictable]
                assert full or len(mine) == max(map(addresses.count, addresses)), "of the address with most"
                peers.remove(each)
                evictable.remove(each)
            admission.enter(new)
            peers.append(new)
            evictable.append(new)
        elif peers:
            peer = peers[number % len(peers)]
            if step == "protect" and not peer.key:
                admission.protect(peer, True)
                peer.protected = True
                evictable = [each for each in evictable if each is not peer]
            elif step == "unprotect" and peer.protected:
                admission.protect(peer, False)
                peer.protected = False
                evictable.append(peer)
            elif step == "authenticate" and not peer.key and not peer.protected:
                key = bytes([number % 2 + 1])
                full = sum(each.key == key for each in peers) >= 2
                peer.key = key
                assert admission.authenticate(peer) == (not full)
                if full:
                    assert peer.ended is CloseReason.LIMIT_KEY
                    peers.remove(peer)
                    evictable = [each for each in evictable if each is not peer]
            elif step == "settle" and peer.key and not peer.settled:
                admission.settle(peer)
                peer.settled = True
                evictable.remove(peer)
            if step == "leave":
                admission.leave(peer)
                peers.remove(peer)
                evictable = [each for each in evictable if each is not peer]
        assert admission.all() == peers
    for peer in peers:
        admission.leave(peer)
    left = [name for name, value in vars(admission).items() if name not in KEPT and value]
    assert left == []
    assert not any(vars(admission._evictable).values())


def test_handshakes_in_the_pool_keep_no_newcomer_out() -> None:
    admission: Any = Admission(Limits(unauthenticated=2), Policy(), Totals())
    for _ in range(3):
        flooding = Peer("1.1.1.1", admission)
        assert admission.make_room(flooding.address) is None
        admission.enter(flooding)
        admission.protect(flooding, True)
    newcomer = Peer("1.1.1.2", admission)
    assert admission.make_room(newcomer.address) is None
    assert flooding.ended is None
