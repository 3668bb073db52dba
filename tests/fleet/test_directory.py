"""One host's view of the directory, step by step, against a model of the server."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offset_common.address import Address
from offset_common.fleet.claims import BATCH, REFRESH_INTERVAL
from offset_common.fleet.directory import FIND_TIMEOUT, MAX_QUESTIONS, RETRY_INTERVAL, Directory
from offset_common.fleet.entries import HOST_TTL, Claim, Entries, Host
from offset_common.fleet.events import (
    Accepted,
    Away,
    Claimed,
    FleetEvent,
    Found,
    Lost,
    Present,
    Refused,
    Replaced,
)
from offset_common.fleet.membership import BEAT_INTERVAL
from offset_common.fleet.requests import Request
from offset_common.identity import encode_key
from tests.fleet.server_model import ServerModel

RELAY = b"R" * 32
KEY = b"K" * 32
ENTRIES = Entries(RELAY)


class HostModel:
    """A host whose requests a test answers.

    Args:
        server: answers them.
        letter: makes the fleet key.
    """

    def __init__(self, server: ServerModel, letter: bytes = b"A") -> None:
        self.server = server
        self.id = encode_key(letter * 32)
        self.directory = Directory(RELAY, Host(self.id, letter.decode(), Address("127.0.0.1", 4568)))
        self.events: list[FleetEvent] = []

    def requests(self) -> list[Request]:
        """Return what the host sends now."""
        self.directory.handle_time(self.server.now)
        return self.directory.take_requests()

    def answer(self, requests: Sequence[Request]) -> None:
        """Execute requests and answer them."""
        for request in requests:
            self.directory.answer(request.number, self.server.execute(request.commands), self.server.now)

    def fail(self, requests: Sequence[Request]) -> None:
        """Fail requests."""
        for request in requests:
            self.directory.fail(request.number, "no answer", self.server.now)

    def run(self) -> list[FleetEvent]:
        """Exchange requests and answers until the host waits; return what it reports."""
        requests = self.requests()
        while requests:
            self.answer(requests)
            requests = self.requests()
        events = self.directory.take_events()
        self.events += events
        return events

    def wait(self, seconds: float) -> list[FleetEvent]:
        """Advance the clock, and run."""
        self.server.now += seconds
        return self.run()

    def listen(self, key: bytes = KEY) -> list[FleetEvent]:
        """Listen, and run."""
        self.directory.claims.listen(key)
        return self.run()

    def find(self, key: bytes = KEY) -> Found:
        """Return where a key listens."""
        number = self.directory.find_home(key, self.server.now)
        (found,) = [event for event in self.run() if isinstance(event, Found) and event.number == number]
        return found


@pytest.fixture
def server() -> ServerModel:
    return ServerModel(1000.0)


@pytest.fixture
def hosts(server: ServerModel) -> tuple[HostModel, HostModel]:
    """Two hosts that know each other."""
    first, second = HostModel(server, b"A"), HostModel(server, b"B")
    for host in (first, second, first):
        host.wait(BEAT_INTERVAL)
    return first, second


def entry(server: ServerModel) -> Claim:
    """Return the claim of KEY in the directory."""
    value = server.execute([ENTRIES.read_listener(KEY)])[0]
    assert isinstance(value, bytes), "no entry"
    epoch, host = value.decode().split()
    return Claim(int(epoch), host)


def has_entry(server: ServerModel) -> bool:
    """Return whether KEY is in the directory."""
    return server.execute([ENTRIES.read_listener(KEY)]) != [None]


def test_listener_is_found_from_another_host(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    found = second.find()
    assert found.host is not None and found.host.id == first.id
    assert first.find().here


def test_newest_listener_wins_and_tells_the_older(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    replaced = second.listen()
    claim = entry(first.server)
    assert replaced == [Claimed(KEY), Replaced(KEY, first.id, claim)] and claim.host == second.id
    assert first.directory.claims.lose(KEY, claim)
    assert first.run() == [Lost(KEY)]


def test_older_host_notices_at_its_next_refresh(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    second.listen()
    assert Lost(KEY) in first.wait(REFRESH_INTERVAL)
    assert entry(first.server).host == second.id


def test_late_claim_takes_no_key_back(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.directory.claims.listen(KEY)
    first.answer(first.requests())  # now it has its epoch
    late = first.requests()
    second.listen()
    first.answer(late)
    assert Lost(KEY) in first.run()
    assert entry(first.server).host == second.id


def test_two_claims_at_once_have_one_winner(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    for host in hosts:
        host.directory.claims.listen(KEY)
    for _ in range(2):
        requests = [host.requests() for host in hosts]
        for host, sent in zip(reversed(hosts), reversed(requests)):
            host.answer(sent)
    events = first.run() + second.run()
    (lost,) = [event for event in events if isinstance(event, (Lost, Replaced))]
    winner = entry(first.server).host
    assert winner == (second.id if isinstance(lost, Lost) and lost in first.events else first.id)


def test_listener_is_claimed_once_others_can_find_it(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.directory.claims.listen(KEY)
    for _ in range(2):
        assert first.directory.take_events() == [] and second.find().host is None
        first.answer(first.requests())
    assert first.directory.take_events() == [Claimed(KEY)]
    assert second.find().host is not None


def test_ended_listener_is_gone_at_once(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    first.directory.claims.stop(KEY)
    first.run()
    assert not has_entry(first.server) and second.find() == Found(0)


def test_old_host_does_not_drop_the_key_of_a_new_one(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    second.listen()
    first.directory.claims.stop(KEY)
    first.run()
    assert entry(first.server).host == second.id


def test_listener_in_the_same_place_keeps_its_entry(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    first.listen()
    before = entry(first.server)
    assert not [event for event in first.listen() if isinstance(event, (Lost, Replaced))]
    assert entry(first.server).epoch > before.epoch
    first.directory.claims.stop(KEY)
    first.run()
    assert not has_entry(first.server)


def test_dead_host_is_unknown_when_its_entry_has_expired(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    for _ in range(int(HOST_TTL / 1000 / BEAT_INTERVAL) + 1):
        second.wait(BEAT_INTERVAL)
    assert second.find().host is None
    assert set(second.directory.hosts) == {second.id}


def test_host_that_leaves_is_unknown_at_the_next_heartbeat(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.directory.leave()
    first.run()
    first.wait(2 * BEAT_INTERVAL)
    second.wait(BEAT_INTERVAL)
    assert set(second.directory.hosts) == {second.id}


def test_host_that_nobody_has_listed_yet_is_found(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    third = HostModel(first.server, b"C")
    third.run()
    number = first.directory.find_host(third.id, first.server.now)
    (found,) = first.run()
    assert isinstance(found, Found) and found.number == number
    assert found.host is not None and found.host.name == "C"


def test_relays_own_key_is_not_a_host(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    impostor = HostModel(first.server, b"R")
    impostor.run()
    impostor.listen()
    first.wait(BEAT_INTERVAL)
    assert impostor.id not in first.directory.hosts
    assert first.find().host is None


def test_question_before_the_first_answer_is_asked(server: ServerModel) -> None:
    home = HostModel(server, b"A")
    home.run()
    home.listen()
    starting = HostModel(server, b"B")
    number = starting.directory.find_home(KEY, server.now)
    starting.run()
    (found,) = [event for event in starting.events if isinstance(event, Found)]
    assert found.number == number and found.host is not None and found.host.id == home.id


def test_nothing_is_asked_while_the_directory_is_unreachable(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    first.directory.find_home(KEY, first.server.now)
    first.fail(first.requests())
    first.run()
    assert first.events[-2:] == [Found(0), Away("no answer")]
    first.directory.claims.listen(KEY)
    assert first.directory.find_home(KEY, first.server.now) == 1
    assert first.requests() == []
    assert first.directory.take_events() == [Found(1)]


def test_absence_is_reported_once_and_listeners_come_back(
    hosts: tuple[HostModel, HostModel],
) -> None:
    first, second = hosts
    keys = [bytes([number]) * 32 for number in range(3)]
    for key in keys:
        first.directory.claims.listen(key)
    first.run()
    first.server.lose_everything()
    events = []
    for _ in range(30):
        first.server.now += RETRY_INTERVAL
        first.fail(first.requests())
        events += first.directory.take_events()
    assert events == [Away("no answer")]
    first.directory.claims.stop(keys[0])
    assert Present() in first.wait(RETRY_INTERVAL)
    second.wait(BEAT_INTERVAL)
    assert [second.find(key).host is not None for key in keys] == [False, True, True]


def test_lost_entries_are_back_after_a_heartbeat(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    first.listen()
    before = entry(first.server)
    first.server.lose_everything()
    first.wait(BEAT_INTERVAL)
    assert entry(first.server) == before


def test_new_listener_wins_after_the_server_lost_its_counter(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    first.server.lose_everything()
    first.server.now += 0.001
    second.run()
    second.listen()
    first.wait(BEAT_INTERVAL)
    assert entry(first.server).host == second.id
    assert Lost(KEY) in first.events


def test_full_server_keeps_old_entries_alive(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    first.server.full = True
    new = b"N" * 32
    second.listen(new)
    for _ in range(200):
        for host in hosts:
            host.wait(1.0)
    found = second.find()
    assert found.host is not None and found.host.id == first.id
    assert first.find(new).host is None
    assert sum(isinstance(event, Refused) for event in second.events) == 1
    first.server.full = False
    for _ in range(2):
        second.wait(BEAT_INTERVAL)
    assert first.find(new).host is not None
    assert sum(isinstance(event, Accepted) for event in second.events) == 1


def test_refusal_is_reported_after_the_first_answer(server: ServerModel) -> None:
    server.full = True
    events = HostModel(server).wait(BEAT_INTERVAL)
    assert [type(event) for event in events] == [Present, Refused]


@pytest.mark.parametrize("answer", [b"nonsense", [], RuntimeError("no")], ids=["text", "too short", "error"])
def test_refused_claim_is_served_locally_and_retried(
    hosts: tuple[HostModel, HostModel], answer: object
) -> None:
    first, second = hosts
    first.directory.claims.listen(KEY)
    first.answer(first.requests())  # now it has its epoch
    (claim,) = first.requests()
    first.directory.answer(claim.number, [answer], first.server.now)
    events = first.directory.take_events()
    assert Claimed(KEY) in events and any(isinstance(event, Refused) for event in events)
    assert first.requests() == []
    first.wait(RETRY_INTERVAL)
    found = second.find()
    assert found.host is not None and found.host.id == first.id


def test_unanswered_question_ends(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    number = first.directory.find_home(KEY, first.server.now)
    late = first.requests()
    first.server.now += FIND_TIMEOUT
    first.directory.handle_time(first.server.now)
    assert first.directory.take_events() == [Found(number)]
    first.answer(late)
    assert not [event for event in first.run() if isinstance(event, Found)]


def test_many_listeners_travel_in_batches(hosts: tuple[HostModel, HostModel]) -> None:
    first, _ = hosts
    for number in range(3 * BATCH):
        first.directory.claims.listen(number.to_bytes(32, "big"))
    requests = 0
    while first.directory.claims.unclaimed:
        sent = first.requests()
        assert len(sent) <= 1
        requests += len(sent)
        first.answer(sent)
    assert requests == 4  # one for the epoch, and three batches


@pytest.mark.parametrize(
    "value", [b"", b"5", b"x y", b"99999999999999999999 " + b"A" * 43, b"-1 " + b"A" * 43, b"\xff" * 60]
)
def test_damaged_listener_entry_is_ignored(hosts: tuple[HostModel, HostModel], value: bytes) -> None:
    first, _ = hosts
    number = first.directory.find_home(KEY, first.server.now)
    (request,) = first.requests()
    first.directory.answer(request.number, [value], first.server.now)
    assert first.directory.take_events() == [Found(number)]


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b'{"name": 1, "address": 2}',
        b'{"name": "x", "address": "y"}',
        b'{"name": "x", "address": "relay.example.com:4567"}',
        b"[" * 100_000,
    ],
)
def test_damaged_host_entry_is_ignored(value: bytes) -> None:
    assert ENTRIES.host_in("A" * 43, value) is None


def test_questions_without_answers_are_bounded(hosts: tuple[HostModel, HostModel]) -> None:
    first, second = hosts
    first.listen()
    for _ in range(MAX_QUESTIONS):
        second.directory.find_home(KEY, second.server.now)
    waiting = second.requests()
    second.server.now += FIND_TIMEOUT
    second.requests()
    assert {found.host for found in second.directory.take_events()} == {None}  # type: ignore[union-attr]
    number = second.directory.find_home(KEY, second.server.now)
    assert (second.requests(), second.directory.take_events()) == ([], [Found(number)])
    second.answer(waiting)
    assert second.find().host is not None
