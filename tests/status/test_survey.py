"""Snapshots of a relay in memory: the counts are true, and made in small steps."""

from __future__ import annotations

import time
from collections import Counter
from typing import Optional

import pytest

from offset_common.identity import Identity
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import MIB, Limits
from offset_common.status import survey
from offset_common.status.routes import health_problem
from offset_common.status.survey import Detail, Result, Snapshot, Survey
from tests.relay.harness import Harness, running


class Pending:
    """A survey under way, and its result."""

    def __init__(self, harness: Harness, detail: Detail) -> None:
        self.results: list[Result] = []
        self.harness = harness
        harness.loop.call_soon_threadsafe(Survey(harness.relay, detail, self.results.append).step)

    def finish(self) -> Snapshot:
        """Run the relay until the snapshot is there."""
        self.harness.run_until(lambda: bool(self.results))
        (result,) = self.results
        assert isinstance(result, Snapshot)
        return result


def take(harness: Harness, detail: Detail = Detail.SUMS) -> Snapshot:
    """Return a snapshot."""
    return Pending(harness, detail).finish()


def used(snapshot: Snapshot) -> dict[str, int]:
    """Return what is used of each limit."""
    return {use.name: use.used for use in snapshot.limits}


def test_nothing_of_an_empty_relay_is_used(harness: Harness) -> None:
    snapshot = take(harness)
    assert snapshot.connections == 0
    assert set(used(snapshot).values()) == {0}


def test_every_role_is_counted(harness: Harness) -> None:
    silent = harness.connect_socket()
    harness.admit()
    listener = harness.listener()
    harness.pending(listener)
    harness.tunnel()
    assert take(harness).roles == {
        "handshake": 1,
        "awaiting_init": 1,
        "listener": 2,
        "pending_connect": 1,
        "tunnel": 2,
        "closing": 0,
    }
    silent.close()


def test_limits_show_the_one_that_uses_most(harness: Harness) -> None:
    identity = Identity.generate()
    listener = harness.listener(address="192.0.2.1")
    for _ in range(3):
        harness.pending(listener, "192.0.2.2")
    harness.admit(identity)
    harness.admit(identity)
    silent = harness.connect_socket(("192.0.2.2", 1))
    found = used(take(harness))
    silent.close()
    assert found["connections"] == 7
    assert found["unproven"] == 1
    assert found["address_connections"] == 4
    assert found["key_connections"] == 2
    assert found["key_pending"] == 1
    assert found["listener_pending"] == 3


def test_tunnels_are_counted_for_each_key(harness: Harness) -> None:
    near, _ = harness.tunnel()
    harness.tunnel()
    assert used(take(harness))["key_tunnels"] == 1
    snapshot = take(harness)
    assert snapshot.tunnels == 2
    assert snapshot.keys[near.key] == 1
    assert snapshot.addresses == {"127.0.0.1": 6}


def test_rows_agree_with_the_connections(harness: Harness) -> None:
    near, far = harness.tunnel()
    near.send(bytes(5000))
    far.receive()
    rows = {row[0]: row for row in take(harness, Detail.ROWS).rows if row[2] == "tunnel"}
    expected: object = (
        near.key,
        near.connection.address,
        "tunnel",
        pytest.approx(time.time(), abs=60),
        near.connection.received,
        near.connection.sent,
        0,
    )
    assert rows[near.key] == expected
    assert rows[far.key][5] == far.connection.sent > 5000
    assert take(harness).rows == []


def test_traffic_includes_connections_that_ended(harness: Harness) -> None:
    near, far = harness.tunnel()
    near.send(bytes(5000))
    far.receive()
    before = take(harness).traffic
    near.sock.close()
    harness.end_of(near.connection)
    far.wait_for_end()
    far.sock.close()
    harness.end_of(far.connection)
    after = take(harness).traffic
    assert after.received >= before.received > 5000
    assert after.sent >= before.sent > 5000


@pytest.fixture
def one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make each step of a walk look at one connection."""
    monkeypatch.setattr(survey, "CONNECTIONS_IN_STEP", 1)


@pytest.mark.usefixtures("one_by_one")
def test_a_walk_takes_a_round_for_each_step(harness: Harness) -> None:
    for _ in range(10):
        harness.admit()
    pending = Pending(harness, Detail.SUMS)
    harness.run_rounds(5)
    assert pending.results == []
    assert pending.finish().connections == 10


@pytest.mark.usefixtures("one_by_one")
@pytest.mark.parametrize("rounds", range(1, 8))
def test_totals_never_go_back_while_connections_end(rounds: int, harness: Harness) -> None:
    peers = [harness.admit() for _ in range(6)]
    sent = sum(peer.connection.sent for peer in peers)
    received = sum(peer.connection.received for peer in peers)
    walk = Pending(harness, Detail.SUMS)
    harness.run_rounds(rounds)
    for peer in peers[1::2]:
        peer.connection.close(CloseReason.PEER_CLOSED)
    during = walk.finish()
    after = take(harness)
    assert during.traffic == after.traffic == (received, sent)
    assert during.attempts == after.attempts == 6
    assert after.connections == 3
    assert 3 <= during.connections <= 6


def test_health_looks_at_no_connection(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise AssertionError("walked")

    with monkeypatch.context() as patch:
        patch.setattr(harness.relay.admission, "all", fail)
        assert take(harness, Detail.HEALTH).connections == 0


@pytest.mark.parametrize("connections", [19, 20])
def test_health_ends_over_95_percent(connections: int) -> None:
    with running(Limits(connections=20, handshake_threads=1)) as harness:
        for _ in range(connections):
            harness.admit()
        problem = health_problem(take(harness, Detail.HEALTH))
        assert problem == ("" if connections == 19 else "connections: 20 of 20")


def test_a_limit_for_one_address_does_not_affect_health() -> None:
    with running(Limits(connections_per_address=5, handshake_threads=1)) as harness:
        for _ in range(5):
            harness.admit()
        assert used(take(harness))["address_connections"] == 5
        assert health_problem(take(harness, Detail.HEALTH)) == ""


def test_a_bug_in_a_survey_does_not_end_the_relay(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Optional[Counter[str]]:
        raise ZeroDivisionError

    pending = Pending(harness, Detail.SUMS)
    with monkeypatch.context() as patch:
        patch.setattr(harness.relay.admission, "all", fail)
        harness.run_until(lambda: bool(pending.results))
    assert isinstance(pending.results[0], Exception)
    assert any("ZeroDivisionError" in line for line in harness.log.lines)


def test_buffers_are_counted_in_bytes(harness: Harness) -> None:
    (use,) = [use for use in take(harness).limits if use.name == "buffers"]
    assert (use.limit, use.unit) == (12 * MIB, "bytes")
