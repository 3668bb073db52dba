"""Volumes and quotas of a relay whose rounds and clocks the test runs."""

from __future__ import annotations

import calendar
import contextlib
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from offset_common.identity import Identity
from offset_common.policy import volume as volume_module
from offset_common.policy.steering import PolicyOptions, Steering
from offset_common.policy.usage import TOTAL, UsageFile, Volume, Volumes
from offset_common.policy.volume import METERS_IN_ROUND, Quotas, VolumeCounter, VolumeEvents
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.event_loop import EACH_IN_ROUND
from offset_common.relay.lifecycle import State
from offset_common.wire.messages import InitRole
from tests.relay.harness import Harness, TestPeer, running
from tests.support.process import wait_until

SIZE = 10_000  # bytes of a message; its frame has a few hundred more
MAY = "2026-05"


class Calendar:
    """A calendar that stands still."""

    def __init__(self) -> None:
        self.seconds = float(calendar.timegm((2026, 5, 31, 23, 0, 0)))

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def today() -> Calendar:
    return Calendar()


@contextlib.contextmanager
def relay_with(today: Calendar, **options: object) -> Iterator[Harness]:
    """Run a relay with options of its policy."""
    chosen = PolicyOptions(**options)  # type: ignore[arg-type]
    with running(make_policy=partial(Steering, options=chosen, calendar=today)) as harness:
        yield harness


def send(harness: Harness, near: TestPeer, far: TestPeer, count: int = 1) -> None:
    """Pass messages, then advance the clock by a second."""
    for _ in range(count):
        near.send(bytes(SIZE))
        assert far.receive() == bytes(SIZE)
    harness.advance(1.0)


def lines(harness: Harness, event: str) -> list[str]:
    return [line for line in harness.log.lines if event in line]


def end(*peers: TestPeer) -> None:
    for peer in peers:
        peer.sock.close()


def test_every_byte_counts_for_the_relay_and_both_keys(today, tmp_path):
    path = str(tmp_path / "usage.db")
    with relay_with(today, usage=path) as harness:
        near, far = harness.tunnel()
        before = near.connection.received, far.connection.received
        send(harness, near, far, 3)
        send(harness, far, near, 1)
        received = near.connection.received - before[0], far.connection.received - before[1]
    saved = UsageFile(path).load(MAY)
    assert saved[TOTAL] == (sum(received), sum(received))
    assert saved[near.key] == (received[0], received[1])
    assert saved[far.key] == (received[1], received[0])


def test_early_data_counts_toward_the_quota(today):
    with relay_with(today, quota=2 * SIZE) as harness:
        listener = harness.listener()
        near = harness.pending(listener)
        near.send(*[bytes(SIZE)] * 3)
        for _ in range(2):
            harness.advance(1.0)
        refused = harness.pending(listener)
        assert harness.reason_of(refused.connection) is CloseReason.QUOTA


def test_a_full_quota_ends_tunnels_and_refuses_new_ones(today):
    with relay_with(today, quota=2 * SIZE) as harness:
        near, far = harness.tunnel()
        send(harness, near, far)
        assert not near.connection.closed
        send(harness, near, far)
        near.wait_for_end()
        end(near, far)
        assert {harness.reason_of(each.connection) for each in (near, far)} <= {
            CloseReason.QUOTA,
            CloseReason.PARTNER_ENDED,
        }
        listener = harness.listener()
        assert harness.reason_of(harness.pending(listener).connection) is CloseReason.QUOTA
        assert not listener.connection.closed


def test_a_quota_ends_a_few_tunnels_in_each_round(today):
    with relay_with(today, quota=5000) as harness:
        pairs = [harness.tunnel() for _ in range(2 * EACH_IN_ROUND)]
        pairs[0][0].send(bytes(6000))
        open_ = len(pairs)
        while open_:
            harness._now += 0.1
            harness.loop.run_once()
            before, open_ = open_, sum(near.state is State.TUNNEL for near, _ in pairs)
            assert before - open_ <= EACH_IN_ROUND
        end(*(peer for pair in pairs for peer in pair))


def test_a_quota_used_up_before_the_start_refuses_tunnels(today, tmp_path):
    path = str(tmp_path / "usage.db")
    UsageFile(path).add(MAY, {TOTAL: Volume(3 * SIZE, 3 * SIZE)})
    with relay_with(today, quota=2 * SIZE, usage=path) as harness:
        harness.advance(1.0)
        assert harness.reason_of(harness.pending(harness.listener()).connection) is CloseReason.QUOTA


def test_volumes_are_collected_over_many_rounds(today):
    tasks: list[Callable[[], None]] = []
    saved: list[Volumes] = []
    events = VolumeEvents(
        warn=ignore,
        exceed=ignore,
        save=lambda month, volumes: saved.append(volumes),
        too_many_keys=ignore,
        call_soon=tasks.append,
    )
    counter = VolumeCounter(lambda: 0.0, today, Quotas(), events)
    count = 3 * METERS_IN_ROUND + 1
    for number in range(count):
        counter.meter(bytes([1]) + number.to_bytes(31, "big"), bytes(32), None).count(1)
    counter.handle_time()
    while tasks:
        counter.save()
        tasks.pop()()
    counter.save()
    collected = [volumes[TOTAL].received for volumes in saved]
    assert sum(collected) == count
    assert max(collected) <= METERS_IN_ROUND


def ignore(*_: object) -> None:
    """Ignore an event."""


def test_the_quota_of_a_key_concerns_no_other_key(today):
    with relay_with(today, quota_per_key=2 * SIZE) as harness:
        near, far = harness.tunnel()
        others = harness.tunnel()
        send(harness, near, far, 2)
        near.wait_for_end()
        end(near, far)
        assert harness.reason_of(near.connection) is CloseReason.QUOTA_OF_KEY
        send(harness, *others)
        refused = harness.admit(near.identity).request(InitRole.CONNECT, others[1].key)
        assert harness.reason_of(refused.connection) is CloseReason.QUOTA_OF_KEY
        end(*others)


def test_a_warning_comes_once_at_eighty_percent(today):
    with relay_with(today, quota=int(10.5 * SIZE)) as harness:
        near, far = harness.tunnel()
        send(harness, near, far, 7)
        assert lines(harness, "80 %") == []
        send(harness, near, far, 1)
        send(harness, near, far, 1)
        (line,) = lines(harness, "80 %")
        assert line.startswith("warning: 80 % of the monthly quota is used: key=all used=")
        end(near, far)


def test_a_new_month_begins_with_a_full_quota(today, tmp_path):
    path = str(tmp_path / "usage.db")
    with relay_with(today, quota=2 * SIZE, usage=path) as harness:
        near, far = harness.tunnel()
        send(harness, near, far, 2)
        near.wait_for_end()
        today.seconds += 3600
        harness.advance(1.0)
        others = harness.tunnel()
        send(harness, *others)
        end(near, far, *others)
    assert 2 * SIZE < UsageFile(path).load(MAY)[TOTAL].received < 3 * SIZE
    assert SIZE < UsageFile(path).load("2026-06")[TOTAL].received < 2 * SIZE


def test_a_month_that_the_file_has_already_continues(today, tmp_path):
    path = str(tmp_path / "usage.db")
    UsageFile(path).add("2026-06", {TOTAL: Volume(3 * SIZE, 3 * SIZE)})
    with relay_with(today, quota=2 * SIZE, usage=path) as harness:  # the clock is behind when it starts
        today.seconds += 3600
        for _ in range(7):
            harness.advance(1.0)
        harness.run_until(lambda: lines(harness, "is used up") != [])
        assert harness.reason_of(harness.pending(harness.listener()).connection) is CloseReason.QUOTA


def test_a_restart_continues_the_month(today, tmp_path):
    path = str(tmp_path / "usage.db")
    for count in (1, 0):
        with relay_with(today, quota=2 * SIZE, usage=path) as harness:
            near, far = harness.tunnel()
            send(harness, near, far)
            assert near.connection.closed is False
            if not count:
                near.wait_for_end()
            end(near, far)


def test_a_restart_continues_the_month_of_a_key(today, tmp_path):
    path, identity = str(tmp_path / "usage.db"), Identity.generate()
    UsageFile(path).add(MAY, {identity.public_key: Volume(3 * SIZE, 0)})
    with relay_with(today, quota_per_key=2 * SIZE, usage=path) as harness:
        refused = harness.admit(identity).request(InitRole.CONNECT, bytes(32))
        assert harness.reason_of(refused.connection) is CloseReason.QUOTA_OF_KEY


def test_a_relay_that_is_killed_loses_at_most_ten_seconds(today, tmp_path):
    path = str(tmp_path / "usage.db")
    with relay_with(today, usage=path) as harness:
        send(harness, *harness.tunnel())
        for _ in range(9):
            harness.advance(1.0)

        def saved() -> bool:
            with contextlib.suppress(KeyError):
                return UsageFile(path).load(MAY)[TOTAL].received > SIZE
            return False

        wait_until(saved, "a save by the thread that writes")


def test_strangers_cannot_fill_the_file_with_keys(today, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_module, "MAX_KEYS", 3)
    path = str(tmp_path / "usage.db")
    with relay_with(today, usage=path) as harness:
        tunnels = [harness.tunnel() for _ in range(3)]
        for ends in tunnels:
            send(harness, *ends)
        for ends in tunnels:
            end(*ends)
        assert len(lines(harness, "too many keys this month")) == 1
    saved = UsageFile(path).load(MAY)
    assert len(saved) == 1 + 3
    assert saved[TOTAL].received > 3 * SIZE


def test_connects_without_data_are_not_counted_as_keys(today, tmp_path, monkeypatch):
    monkeypatch.setattr(volume_module, "MAX_KEYS", 2)
    path = str(tmp_path / "usage.db")
    with relay_with(today, usage=path) as harness:
        listener = harness.listener()
        for _ in range(3):
            harness.pending(listener)
        near, far = harness.tunnel()
        send(harness, near, far)
        assert lines(harness, "too many keys this month") == []
    assert set(UsageFile(path).load(MAY)) == {TOTAL, near.key, far.key}


def test_a_quota_without_a_file_warns(today):
    with relay_with(today, quota=1) as harness:
        assert len(lines(harness, "volumes are kept in memory only")) == 1
