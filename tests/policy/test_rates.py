"""Rates: how much ends of tunnels may read, with a clock that the test advances."""

from __future__ import annotations

import os
import random
from functools import partial
from typing import Any

import pytest

from offset_common.policy.rates import BURST, EndRate, Rates
from offset_common.policy.steering import PolicyOptions, Steering
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import SMALL_READ
from offset_common.wire.messages import InitRole
from tests.relay.harness import full_pool, running

MB = 1_000_000
ALICE, BOB, CAROL, DAVE = (bytes([number]) * 32 for number in range(4))


class Sender:
    """A tunnel end that always has data to send; if `whole`, it reads all that it asks for, or nothing."""

    def __init__(
        self, simulation: Simulation, source: bytes, sink: bytes, address: str = "a", whole: bool = False
    ) -> None:
        self.sent = 0
        self.paused = False
        self.whole = whole
        self._end: EndRate = simulation.rates.end(address, source, sink, self._resume)

    def _resume(self) -> None:
        self.paused = False

    def end(self) -> None:
        """Close."""
        self._end.end()

    def send(self, most: int = 64 * 1024) -> int:
        """Read once, if the rate allows it; return the bytes."""
        least = most if self.whole else 1
        allowed = 0 if self.paused else self._end.allow(most, least)
        assert not allowed or allowed >= least
        if allowed:
            self._end.count(allowed)
            self.sent += allowed
        else:
            self.paused = True
        return allowed


class Simulation:
    """Rates, with the rounds of a loop."""

    def __init__(self, rate: float | None = None, rate_per_key: float | None = None) -> None:
        self.now = 100.0
        self.rates = Rates(lambda: self.now, rate, rate_per_key)

    def run(self, senders: list[Sender], seconds: float, step: float = 0.002) -> None:
        """Make senders send as fast as their rates allow."""
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self.rates.resume_waiting()
            for sender in senders:
                while sender.send():
                    pass


@pytest.mark.parametrize("rate", [10_000, 300_000, 5 * MB, 200 * MB])
@pytest.mark.parametrize("count", [1, 7, 100])
def test_the_rate_holds_within_five_percent(rate, count):
    simulation = Simulation(rate=rate)
    senders = [Sender(simulation, ALICE, BOB) for _ in range(count)]
    simulation.run(senders, 10)
    assert sum(sender.sent for sender in senders) == pytest.approx(10 * rate, rel=0.05)


def test_the_rate_holds_where_the_loop_is_late():
    simulation = Simulation(rate=MB)
    sender = Sender(simulation, ALICE, BOB)
    delays = random.Random(3)
    started = simulation.now
    while simulation.now < started + 10:
        simulation.run([sender], 0.01, step=delays.uniform(0.001, 0.15))
    assert sender.sent == pytest.approx((simulation.now - started) * MB, rel=0.05)


def test_short_tunnels_return_what_they_took_in_advance():
    simulation = Simulation(rate=MB)
    simulation.now += 10.0
    for _ in range(100):
        end = simulation.rates.end("a", ALICE, BOB, lambda: None)
        assert end.allow(64 * 1024) > 10_000
        end.count(100)
        end.end()
    assert simulation.rates._all.tokens == MB * BURST - 100 * 100


@pytest.mark.parametrize("quota", [None, 10**9], ids=["a rate alone", "beside a quota"])
@pytest.mark.parametrize("way", ["the peer closes", "the relay closes", "the other end closes"])
def test_a_tunnel_that_ends_releases_unused_tokens(way, quota):
    with running(make_policy=partial(Steering, options=PolicyOptions(rate=MB, quota=quota))) as harness:
        policy: Any = harness.relay._policy
        near, far = harness.tunnel()
        for _ in range(3):
            harness.advance(10.0)  # no end waits any more, and the bucket is full
        received = near.connection.received
        near.send(b"a small message")
        assert far.receive() == b"a small message"
        size = near.connection.received - received
        bucket = policy._rates._all
        assert bucket.tokens < MB * BURST - size
        if way == "the relay closes":
            near.connection.close(CloseReason.IDLE)
        else:
            peer = near if way == "the peer closes" else far
            peer.sock.close()
            harness.run_until(lambda: near.state is not State.TUNNEL)
        assert bucket.tokens == MB * BURST - size
        far.sock.close()


def test_a_frame_without_space_passes_at_a_low_rate():
    options = PolicyOptions(rate=50_000)
    with running(make_policy=partial(Steering, options=options)) as harness, full_pool(harness):
        near, far = harness.tunnel()
        message = os.urandom(30_000)
        near.send(message)
        for _ in range(20):
            harness.advance(0.1)
        assert far.receive() == message


def test_early_data_counts_toward_the_rate():
    options = PolicyOptions(rate=20_000)
    with running(make_policy=partial(Steering, options=options)) as harness:
        listener = harness.listener()
        near = harness.pending(listener)
        before, messages = near.connection.received, [os.urandom(6000) for _ in range(10)]
        near.send(*messages)
        harness.advance(1.0)
        assert near.connection.received - before < 20_000 * (1 + BURST) + SMALL_READ
        far = harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
        for _ in range(40):
            harness.advance(0.1)
        assert [far.receive() for _ in messages] == messages


def test_an_end_does_not_wait_for_ends_that_have_closed():
    simulation = Simulation(rate_per_key=10_000)
    last, *others = [Sender(simulation, ALICE, BOB) for _ in range(100)]
    simulation.run([*others, last], 1.0)
    for sender in others:
        sender.end()
    before = last.sent
    simulation.run([last], 1.0)
    assert last.sent - before > 9000


def test_ends_share_a_rate_equally():
    simulation = Simulation(rate=MB)
    senders = [Sender(simulation, ALICE, BOB) for _ in range(10)]
    simulation.run(senders, 10)
    for sender in senders:
        assert sender.sent == pytest.approx(MB, rel=0.1)


def test_whole_frames_get_an_equal_share_of_a_rate():
    simulation = Simulation(rate=MB)
    senders = [Sender(simulation, ALICE, BOB, whole=not number % 2) for number in range(10)]
    simulation.run(senders, 10)
    for sender in senders:
        assert sender.sent == pytest.approx(MB, rel=0.15)


def test_addresses_share_a_rate_equally():
    simulation = Simulation(rate=MB)
    busy = [Sender(simulation, ALICE, BOB, "busy") for _ in range(200)]
    others = [Sender(simulation, CAROL, DAVE, address) for address in ("b", "c")]
    simulation.run([*busy, *others], 10)
    for sent in (sum(sender.sent for sender in busy), *(sender.sent for sender in others)):
        assert sent == pytest.approx(10 * MB / 3, rel=0.1)


@pytest.mark.parametrize("side", ["source", "sink"])
def test_the_rate_of_a_key_holds_for_all_its_tunnels(side):
    simulation = Simulation(rate_per_key=MB)
    pairs = [(ALICE, other) if side == "source" else (other, ALICE) for other in (BOB, CAROL, DAVE)]
    senders = [Sender(simulation, *pair) for pair in pairs]
    simulation.run(senders, 10)
    assert sum(sender.sent for sender in senders) == pytest.approx(10 * MB, rel=0.05)


def test_other_keys_have_rates_of_their_own():
    simulation = Simulation(rate_per_key=MB)
    senders = [Sender(simulation, ALICE, BOB), Sender(simulation, CAROL, DAVE)]
    simulation.run(senders, 10)
    for sender in senders:
        assert sender.sent == pytest.approx(10 * MB, rel=0.05)


@pytest.mark.parametrize("bulk", [1, 10, 200])
def test_a_small_message_does_not_wait_behind_bulk(bulk):
    simulation = Simulation(rate=MB)
    senders = [Sender(simulation, ALICE, BOB) for _ in range(bulk)]
    simulation.run(senders, 1)
    small = Sender(simulation, CAROL, DAVE)
    delayed = 0
    for _ in range(200):
        delayed += not small.send(300)
        simulation.run(senders, 0.3)
        assert not small.paused
    assert delayed == 0


@pytest.mark.parametrize("bulk", [1, 200, 1000])
def test_small_messages_pass_bulk_of_another_address(bulk):
    simulation = Simulation(rate=MB)
    senders = [Sender(simulation, ALICE, BOB) for _ in range(bulk)]
    simulation.run(senders, 1)
    small = Sender(simulation, CAROL, DAVE, "small")
    for _ in range(500):
        assert small.send(300)
        simulation.run(senders, 0.01)


def test_small_messages_of_many_tunnels_stop_no_other_address():
    simulation = Simulation(rate=MB)
    small = Sender(simulation, CAROL, DAVE, "small")
    light = [Sender(simulation, ALICE, BOB, "light") for _ in range(1200)]
    longest = waited = 0.0
    for step in range(10_000):
        simulation.now += 0.001
        simulation.rates.resume_waiting()
        for sender in light[step % 300 :: 300]:  # each 3.3 times a second: 1.2 times the rate
            sender.send(300)
        if small.paused or step % 10 == 0:
            waited = 0.0 if small.send(300) else waited + 0.001
            longest = max(longest, waited)
    assert longest < 0.2


@pytest.mark.parametrize("rate", [20_000, 40_000])
def test_small_messages_do_not_wait_beside_bulk_at_a_low_rate(rate):
    simulation = Simulation(rate_per_key=rate)
    senders = [Sender(simulation, ALICE, BOB)]
    simulation.run(senders, 60)
    small = Sender(simulation, ALICE, BOB)
    for _ in range(20):
        assert small.send(100)
        simulation.run(senders, 1)


def test_a_rate_holds_after_another_one_is_removed():
    simulation = Simulation(rate=MB, rate_per_key=100_000)
    senders = [Sender(simulation, bytes([number]) * 32, bytes([number + 100]) * 32) for number in range(4)]
    simulation.run(senders, 2)
    simulation.rates.change(rate=MB, rate_per_key=None)
    before = sum(sender.sent for sender in senders)
    for _ in range(500):
        simulation.now += 0.002
        simulation.rates.resume_waiting()
        for sender in senders:
            sender.send()
    assert sum(sender.sent for sender in senders) - before < 1.5 * MB


def test_small_messages_count_toward_the_rate():
    simulation = Simulation(rate=100_000)
    light = [Sender(simulation, CAROL, DAVE) for _ in range(500)]
    total, end = 0, simulation.now + 10
    while simulation.now < end:
        simulation.now += 0.01
        simulation.rates.resume_waiting()
        total += sum(sender.send(300) for sender in light)
    assert total == pytest.approx(MB, rel=0.05)


def test_an_idle_relay_has_nothing_to_do():
    simulation = Simulation(rate=MB)
    sender = Sender(simulation, ALICE, BOB)
    simulation.run([sender], 1)
    sender.paused = True
    simulation.run([], 1)
    assert simulation.rates.next_time() == float("inf")


def test_a_new_rate_holds_from_the_next_read_on():
    simulation = Simulation()
    end = simulation.rates.end("a", ALICE, BOB, lambda: None)
    assert end.allow(MB) == MB
    end.count(100)  # there was no more
    simulation.rates.change(rate=MB, rate_per_key=None)
    assert end.allow(MB) < 1000


def test_a_changed_rate_holds_for_tunnels_that_exist():
    simulation = Simulation(rate=MB)
    sender = Sender(simulation, ALICE, BOB)
    simulation.run([sender], 2)
    simulation.rates.change(rate=4 * MB, rate_per_key=None)
    before = sender.sent
    simulation.run([sender], 10)
    assert sender.sent - before == pytest.approx(40 * MB, rel=0.05)
    simulation.rates.change(rate=None, rate_per_key=None)
    simulation.now += 1
    simulation.rates.resume_waiting()
    assert sender.send(10 * MB) == 10 * MB
