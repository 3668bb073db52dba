"""The registry: each row of its table, its limits, and any order of events against a plain model."""

from __future__ import annotations

from typing import Optional

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from offset_common.relay.reasons import CloseReason

from offset_common.relay.limits import Limits
from offset_common.relay.registry import Action, Announce, Close, Join, Registry

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32


@pytest.fixture
def registry() -> Registry:
    return Registry(Limits(waiting_per_key=2, waiting_per_listener=3, tunnels_per_key=2))


def test_a_first_listener_is_taken_without_a_word(registry: Registry) -> None:
    assert registry.listen("listener", A) == []
    assert registry.listener_of(A) == "listener"


def test_a_connect_is_announced_to_its_listener(registry: Registry) -> None:
    registry.listen("listener", A)
    assert registry.connect("connect", B, A) == [Announce("listener", B)]


def test_a_connect_without_a_listener_is_closed(registry: Registry) -> None:
    registry.listen("listener", A)
    assert registry.connect("connect", B, C) == [Close("connect", CloseReason.NO_LISTENER)]
    assert len(registry) == 1


def test_an_accept_joins_the_oldest_connect_of_its_pair(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.connect("first", B, A)
    registry.connect("second", B, A)
    assert registry.accept("accept 1", A, B) == [Join("first", "accept 1")]
    assert registry.accept("accept 2", A, B) == [Join("second", "accept 2")]


@pytest.mark.parametrize(("key", "source"), [(A, C), (C, B), (B, A)])
def test_an_accept_of_who_does_not_wait_for_that_key_is_closed(
    registry: Registry, key: bytes, source: bytes
) -> None:
    registry.listen("listener", A)
    registry.connect("connect", B, A)
    assert registry.accept("accept", key, source) == [Close("accept", CloseReason.NO_WAITING_CONNECT)]


def test_a_reject_closes_the_oldest_connect_of_its_pair(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.connect("first", B, A)
    registry.connect("second", B, A)
    assert registry.reject("listener", B) == [Close("first", CloseReason.REJECTED)]
    assert registry.accept("accept", A, B) == [Join("second", "accept")]


@pytest.mark.parametrize(("who", "source"), [("listener", C), ("other", B), ("nobody", B)])
def test_a_reject_of_who_does_not_wait_for_that_listener_does_nothing(
    registry: Registry, who: str, source: bytes
) -> None:
    registry.listen("listener", A)
    registry.listen("other", C)
    registry.connect("connect", B, A)
    assert registry.reject(who, source) == []
    assert registry.accept("accept", A, B) == [Join("connect", "accept")]


def test_the_newest_listener_wins_and_hears_of_all_that_wait(registry: Registry) -> None:
    registry.listen("older", A)
    registry.connect("first", B, A)
    registry.connect("second", C, A)
    assert registry.listen("newer", A) == [
        Close("older", CloseReason.REPLACED),
        Announce("newer", B),
        Announce("newer", C),
    ]
    assert registry.closed("older") == []
    assert registry.listener_of(A) == "newer"
    assert registry.accept("accept", A, B) == [Join("first", "accept")]


def test_an_older_listener_can_reject_nothing_any_more(registry: Registry) -> None:
    registry.listen("older", A)
    registry.connect("connect", B, A)
    registry.listen("newer", A)
    assert registry.reject("older", B) == []


def test_the_end_of_a_listener_closes_what_waits_for_it_and_nothing_else(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.listen("other", C)
    registry.connect("first", B, A)
    registry.connect("second", C, A)
    registry.connect("elsewhere", B, C)
    registry.accept("accept", A, C)
    assert registry.closed("listener") == [Close("first", CloseReason.LISTENER_ENDED)]
    assert registry.listener_of(A) is None
    assert registry.listener_of(C) == "other"
    assert registry.accept("accept 2", C, B) == [Join("elsewhere", "accept 2")]


def test_a_connect_that_ends_waits_no_more(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.connect("connect", B, A)
    assert registry.closed("connect") == []
    assert registry.accept("accept", A, B) == [Close("accept", CloseReason.NO_WAITING_CONNECT)]


def test_one_key_has_so_many_waiting_connects_and_no_more(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.connect(1, B, A)
    registry.connect(2, B, A)
    assert registry.connect(3, B, A) == [Close(3, CloseReason.LIMIT_WAITING)]
    assert registry.connect(4, C, A) == [Announce("listener", C)]
    registry.closed(1)
    assert registry.listen("other", C) == []
    assert registry.connect(5, B, C) == [Announce("other", B)]


def test_one_listener_has_so_many_waiting_connects_and_no_more(registry: Registry) -> None:
    registry.listen("listener", A)
    for number, key in enumerate([B, B, C]):
        assert registry.connect(number, key, A) == [Announce("listener", key)]
    assert registry.connect(4, C, A) == [Close(4, CloseReason.LIMIT_WAITING)]
    registry.reject("listener", B)
    assert registry.connect(5, C, A) == [Announce("listener", C)]


def test_one_key_has_so_many_tunnels_and_no_more(registry: Registry) -> None:
    registry.listen("listener", A)
    registry.listen("other", C)
    for number in (1, 2):
        registry.connect(number, B, A)
        registry.accept(-number, A, B)
    assert registry.connect(3, B, C) == [Close(3, CloseReason.LIMIT_TUNNELS)]
    registry.connect(4, C, A)
    assert registry.accept(-4, A, C) == [Close(-4, CloseReason.LIMIT_TUNNELS)]
    registry.closed(-1)
    assert registry.accept(-5, A, C) == [Join(4, -5)]


KEYS = st.sampled_from([A, B, C])
LIMITS = Limits(waiting_per_key=3, waiting_per_listener=4, tunnels_per_key=3)


class RegistryModel(RuleBasedStateMachine):
    """The registry against one flat list of connections, searched from the front each time."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = Registry(LIMITS)
        self.next_id = 0
        self.roles: dict[int, tuple[str, bytes, Optional[bytes]]] = {}  # role, own key, target key

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def find(self, role: str, key: Optional[bytes] = None, target: Optional[bytes] = None) -> list[int]:
        return [
            each
            for each, (its_role, its_key, its_target) in self.roles.items()
            if its_role == role and key in (None, its_key) and target in (None, its_target)
        ]

    def do(self, actions: list[Action], expected: list[Action]) -> None:
        assert actions == expected
        for action in actions:
            if isinstance(action, Close):
                assert isinstance(action.connection, int)
                self.roles.pop(action.connection, None)
                assert self.registry.closed(action.connection) == []

    @rule(key=KEYS)
    def listen(self, key: bytes) -> None:
        new = self.new_id()
        expected: list[Action] = [Close(old, CloseReason.REPLACED) for old in self.find("listen", key)]
        waiting = self.find("wait", target=key)
        expected += [Announce(new, self.roles[each][1]) for each in waiting]
        self.do(self.registry.listen(new, key), expected)
        self.roles[new] = ("listen", key, None)

    @rule(source=KEYS, wanted=KEYS)
    def connect(self, source: bytes, wanted: bytes) -> None:
        new = self.new_id()
        listeners = self.find("listen", wanted)
        reason = None
        if not listeners:
            reason = CloseReason.NO_LISTENER
        elif len(self.find("wait", source)) >= 3 or len(self.find("wait", target=wanted)) >= 4:
            reason = CloseReason.LIMIT_WAITING
        elif len(self.find("tunnel", source)) >= 3:
            reason = CloseReason.LIMIT_TUNNELS
        if reason is not None:
            self.do(self.registry.connect(new, source, wanted), [Close(new, reason)])
        else:
            self.do(self.registry.connect(new, source, wanted), [Announce(listeners[0], source)])
            self.roles[new] = ("wait", source, wanted)

    @rule(key=KEYS, source=KEYS)
    def accept(self, key: bytes, source: bytes) -> None:
        new = self.new_id()
        waiting = self.find("wait", source, key)
        actions = self.registry.accept(new, key, source)
        if not waiting:
            self.do(actions, [Close(new, CloseReason.NO_WAITING_CONNECT)])
        elif len(self.find("tunnel", key)) >= 3:
            self.do(actions, [Close(new, CloseReason.LIMIT_TUNNELS)])
        else:
            self.do(actions, [Join(waiting[0], new)])
            self.roles[waiting[0]] = ("tunnel", source, None)
            self.roles[new] = ("tunnel", key, None)

    @rule(key=KEYS, source=KEYS)
    def reject(self, key: bytes, source: bytes) -> None:
        for listener in self.find("listen", key):
            waiting = self.find("wait", source, key)[:1]
            expected: list[Action] = [Close(each, CloseReason.REJECTED) for each in waiting]
            self.do(self.registry.reject(listener, source), expected)

    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        if self.roles:
            self.end(data.draw(st.sampled_from(sorted(self.roles))))

    def end(self, connection: int) -> None:
        role, key, _ = self.roles.pop(connection)
        waiting = self.find("wait", target=key) if role == "listen" else []
        expected: list[Action] = [Close(each, CloseReason.LISTENER_ENDED) for each in waiting]
        self.do(self.registry.closed(connection), expected)

    @invariant()
    def holds_what_the_model_holds(self) -> None:
        assert len(self.registry) == len(self.roles)
        for key in (A, B, C):
            assert self.registry.listener_of(key) == next(iter(self.find("listen", key)), None)

    def teardown(self) -> None:
        while self.roles:
            self.end(next(iter(self.roles)))
        assert len(self.registry) == 0
        held = [value for value in vars(self.registry).values() if isinstance(value, dict) and value]
        assert held == []


TestRegistryModel = RegistryModel.TestCase
TestRegistryModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
