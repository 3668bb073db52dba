"""The registry, compared with a simple model after events in random order."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits
from offset_common.relay.registry import Connect, Registry

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
HERE, THERE = "1.1.1.1", "2.2.2.2"


@pytest.fixture
def registry() -> Registry[str, str, str]:
    return Registry(Limits(pending_per_key=2, pending_per_listener=3, tunnels_per_key=2))


R = Registry[str, str, str]


def connect(registry: R, pending: str, source: bytes, target: bytes, address: str = HERE) -> None:
    registry.connect(pending, Connect(source, target, address))


def test_connects_at_once_respect_the_tunnel_limit(registry: R) -> None:
    registry.listen("listener", A)
    for number in range(4):
        connect(registry, f"connect {number}", B, A)
    tunnels = 0
    while not isinstance(pending := registry.accept(A, B), CloseReason):
        tunnels += 1
        registry.remove_connect(pending)
        registry.add_tunnel_end(f"end {tunnels}", B)
    assert tunnels == 2


def test_changed_limits_hold_for_the_next_connect(registry: R) -> None:
    connect(registry, "first", B, A)
    registry.change_limits(Limits(pending_per_key=1))
    assert registry.connect("second", Connect(B, A, HERE)) is CloseReason.LIMIT_PENDING


@pytest.mark.parametrize(
    "connects",
    [[(A, A), (B, B), (C, C)], [(B, A), (C, A), (C, B)]],
    ids=["to three keys", "two of them to one key"],
)
def test_unattended_connects_are_taken_in_turn(registry: R, connects: list[tuple[bytes, bytes]]) -> None:
    for pending, (source, target) in zip("xyz", connects):
        connect(registry, pending, source, target)
    order = ""
    for _ in range(6):
        ((pending, request),) = registry.take(registry.unattended()[:1])
        order += pending
        registry.connect(pending, request)
    assert order == "xyzxyz"


def test_addresses_take_turns_among_unattended_connects(registry: R) -> None:
    for pending, address in (("flood 1", HERE), ("flood 2", HERE), ("flood 3", HERE), ("other", THERE)):
        key = pending.encode().ljust(32)
        connect(registry, pending, key, key, address)
    assert registry.unattended() == ["flood 1", "other", "flood 2", "flood 3"]


KEYS = st.sampled_from([A, B, C])
SOURCES = st.tuples(KEYS, st.sampled_from("xyz"))  # key and address
LIMITS = Limits(pending_per_key=3, pending_per_listener=4, tunnels_per_key=3)


Waiting = tuple[int, bytes, bytes, str]
"""A pending connect: its id, source, target and address."""


class RegistryModel(RuleBasedStateMachine):
    """The registry compared with flat lists."""

    def __init__(self) -> None:
        super().__init__()
        self.registry: Registry[int, int, int] = Registry(LIMITS)
        self.next_id = 0
        self.listeners: list[tuple[int, bytes]] = []
        self.waiting: list[Waiting] = []
        self.ends: list[tuple[int, bytes]] = []

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def listener(self, key: bytes) -> Optional[int]:
        return next((each for each, its_key in self.listeners if its_key == key), None)

    def to(self, target: bytes) -> list[Waiting]:
        return [each for each in self.waiting if each[2] == target]

    def pair(self, source: bytes, target: bytes) -> list[Waiting]:
        return [each for each in self.to(target) if each[1] == source]

    def tunnels(self, key: bytes) -> int:
        return sum(its_key == key for _, its_key in self.ends)

    def pending(self, key: bytes) -> int:
        return sum(each[1] == key for each in self.waiting)

    def remove(self, pending: Waiting) -> None:
        self.waiting.remove(pending)
        assert self.registry.remove_connect(pending[0]) == self.listener(pending[2])

    @initialize()
    def listen_with_all_keys(self) -> None:
        for key in (A, B, C):
            self.listen(key)

    @rule(key=KEYS)
    def listen(self, key: bytes) -> None:
        new = self.new_id()
        expected = self.listener(key), [each[0] for each in self.to(key)]
        assert self.registry.listen(new, key) == expected
        self.listeners = [each for each in self.listeners if each[1] != key] + [(new, key)]

    @rule(wanted=KEYS, connects=st.lists(SOURCES, min_size=1, max_size=9))
    def connect_some(self, wanted: bytes, connects: list[tuple[bytes, str]]) -> None:
        """Make several connects to one key: single ones would rarely be enough to evict one."""
        for source, address in connects:
            self.connect(source, wanted, address)

    def connect(self, source: bytes, target: bytes, address: str) -> None:
        new = self.new_id()
        decision = self.registry.connect(new, Connect(source, target, address))
        if self.pending(source) >= 3:
            assert decision is CloseReason.LIMIT_PENDING
        elif self.tunnels(source) + self.pending(source) >= 3:
            assert decision is CloseReason.LIMIT_TUNNELS
        elif len(self.to(target)) < 4:
            assert decision == (self.listener(target), None)
            self.waiting.append((new, source, target, address))
        else:
            addresses = [each[3] for each in self.to(target)] + [address]
            most = max(map(addresses.count, addresses))
            if addresses.count(address) == most:
                assert decision is CloseReason.LIMIT_PENDING
                return
            assert isinstance(decision, tuple)
            assert decision[0] == self.listener(target)
            (evicted,) = [each for each in self.waiting if each[0] == decision[1]]
            assert addresses.count(evicted[3]) == most
            assert evicted == [each for each in self.to(target) if each[3] == evicted[3]][-1]
            self.remove(evicted)
            self.waiting.append((new, source, target, address))

    @rule()
    def take_unattended(self) -> None:
        lonely = [each for each in self.waiting if self.listener(each[2]) is None]
        taken = self.registry.take(self.registry.unattended())
        assert sorted((pending, *connect) for pending, connect in taken) == sorted(lonely)
        self.waiting = [each for each in self.waiting if each not in lonely]

    @rule(key=KEYS, source=KEYS)
    def accept(self, key: bytes, source: bytes) -> None:
        decision = self.registry.accept(key, source)
        if not self.pair(source, key):
            assert decision is CloseReason.NO_PENDING_CONNECT
        elif self.tunnels(key) + self.pending(key) >= 3:
            assert decision is CloseReason.LIMIT_TUNNELS
        else:
            pending = self.pair(source, key)[0]
            assert decision == pending[0]
            self.remove(pending)
            for end_key in (source, key):
                end = self.new_id()
                self.registry.add_tunnel_end(end, end_key)
                self.ends.append((end, end_key))

    @rule(key=KEYS, source=KEYS)
    def reject(self, key: bytes, source: bytes) -> None:
        pending = next(iter(self.pair(source, key)), None)
        assert self.registry.oldest_connect(source, key) == (pending and pending[0])
        if pending is not None:
            self.remove(pending)

    @rule(number=st.integers(0, 20))
    def close_connect(self, number: int) -> None:
        if self.waiting:
            self.remove(self.waiting[number % len(self.waiting)])

    @rule(number=st.integers(0, 20))
    def close_listener(self, number: int) -> None:
        if self.listeners:
            listener, key = self.listeners.pop(number % len(self.listeners))
            assert self.registry.remove_listener(listener, key) == [each[0] for each in self.to(key)]
            self.waiting = [each for each in self.waiting if each[2] != key]

    @rule(number=st.integers(0, 20))
    def close_tunnel_end(self, number: int) -> None:
        if self.ends:
            self.registry.remove_tunnel_end(self.ends.pop(number % len(self.ends))[0])

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.registry) == len(self.listeners) + len(self.waiting) + len(self.ends)
        for key in (A, B, C):
            assert self.registry.listener_of(key) == self.listener(key)
            assert self.registry.has_pending(key) == bool(self.to(key))

    def teardown(self) -> None:
        self.take_unattended()
        while self.listeners:
            self.close_listener(0)
        while self.ends:
            self.close_tunnel_end(0)
        assert not self.waiting, "a connect is pending without a listener"
        held = [name for name, value in vars(self.registry).items() if name != "_limits" and value]
        assert held == []


TestRegistryModel = RegistryModel.TestCase
TestRegistryModel.settings = settings(max_examples=100, stateful_step_count=40)
