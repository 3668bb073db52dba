"""The buffer pool: a connection and its address never hold more than is still free."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.buffer_pool import SCAN_ALL_UP_TO, SCAN_INTERVAL, Account, BufferPool

FREE = 8192  # bytes that each connection may buffer beside the pool


def over(held: int) -> int:
    """Return how much of `held` counts."""
    return max(0, held - FREE)


class Model:
    """The rule of the pool, from sums over all connections."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.pool = BufferPool(limit)
        self.accounts: list[Account] = []
        self.addresses: list[str] = []
        self.held: list[int] = []

    def open(self, address: str) -> int:
        """Open an account; return its number."""
        self.accounts.append(self.pool.open_account(address))
        self.addresses.append(address)
        self.held.append(0)
        return len(self.held) - 1

    def add(self, number: int, size: int) -> None:
        self.accounts[number].add(size)
        self.held[number] += size

    @property
    def used(self) -> int:
        return sum(map(over, self.held))

    def of_address(self, address: str) -> int:
        return sum(over(held) for held, its in zip(self.held, self.addresses) if its == address)

    def allows(self, number: int, size: int) -> bool:
        """Return whether the rule holds once `size` bytes are added."""
        after = over(self.held[number] + size)
        change = after - over(self.held[number])
        address = self.of_address(self.addresses[number]) + change
        return not change or after + address <= self.limit - (self.used + change)

    def others(self, number: int) -> int:
        """Return the bytes held by all connections except one."""
        return self.used - over(self.held[number])


STEPS = st.lists(st.tuples(st.integers(0, 9), st.integers(-30_000, 30_000)), max_size=80)


@given(STEPS, st.sampled_from([1, 5000, 50_000, 200_000]))
def test_pool_agrees_with_sums_over_all_connections(steps: list[tuple[int, int]], limit: int) -> None:
    model = Model(limit)
    for number in range(10):
        model.open(f"address {number % 3}")
    for number, size in steps:
        if size > 0:
            fits = model.accounts[number].fits(size)
            # A connection may have one frame of any size if the others hold nothing.
            assert fits is model.allows(number, size) or not model.others(number)
            assert fits or model.used
            if fits:
                model.add(number, size)
        else:
            model.add(number, max(size, -model.held[number]))
        assert model.pool.used == model.used
        assert model.accounts[number].held == model.held[number]
    for number, held in enumerate(model.held):
        model.add(number, -held)
    assert model.pool.used == 0
    model.accounts.clear()
    assert len(model.pool._addresses) == 0


@given(STEPS)
def test_available_bytes_are_those_that_fit(steps: list[tuple[int, int]]) -> None:
    model = Model(60_000)
    for number in range(10):
        model.open(f"address {number % 3}")
    for number, size in steps:
        model.add(number, max(size, -model.held[number]))
        for each, account in enumerate(model.accounts):
            available = account.available()
            assert available == 0 or account.fits(available)
            assert not account.fits(available + 3) or not model.others(each)  # rounded down to thirds


def fill(pool: BufferPool, address: str, size: int = 10_000) -> Iterator[Account]:
    """Open accounts of one address until none gets space."""
    while True:
        account = pool.open_account(address)
        if not account.fits(size + FREE):
            return
        account.add(size + FREE)
        yield account


def test_address_alone_gets_half_and_two_a_third_each() -> None:
    pool = BufferPool(12_000_000)
    first = list(fill(pool, "first"))
    assert 0.49 < pool.used / pool.limit <= 0.5
    second = list(fill(pool, "second"))
    assert 0.24 < len(second) * 10_000 / pool.limit <= 0.25 + 0.001, "half of what was left"
    while len(second) < len(first):
        account = first.pop()  # its peer reads
        account.add(-account.held)
        second += fill(pool, "second")
    assert 0.65 < pool.used / pool.limit <= 2 / 3


class Waiters:
    """Connections of different addresses that wait for space in a full pool."""

    def __init__(self, sizes: list[int]) -> None:
        self.pool = BufferPool(100_000)
        self.holder = self.pool.open_account("holder")
        self.holder.add(FREE + 100_000)
        self.resumed: list[int] = []
        self.accounts = [self.pool.open_account(f"address {number}") for number in range(len(sizes))]
        for number, size in enumerate(sizes):
            account = self.accounts[number]
            assert not account.fits(FREE + size)
            account.wait(account, FREE + size, lambda n=number: self.resumed.append(n))  # type: ignore[misc]
        self._sizes = sizes

    def resume(self, now: float = 0.0, take: bool = True) -> list[int]:
        """Return which connections a scan resumes; afterwards they take their space, as in their turns."""
        before = len(self.resumed)
        self.pool.resume_waiting(now)
        new = self.resumed[before:]
        for number in new:
            self.accounts[number].add(FREE + self._sizes[number] if take else 0)
        return new


def test_waiting_connections_resume_in_the_order_of_arrival() -> None:
    waiters = Waiters([20_000, 20_000, 20_000])
    assert waiters.resume() == []
    for freed, resumed in ((60_000, [0]), (20_000, [1]), (20_000, [2])):
        waiters.holder.add(-freed)
        assert waiters.resume() == resumed
    assert waiters.pool.waiting == 0


def test_resumed_connections_use_up_the_free_space() -> None:
    waiters = Waiters([20_000] * 5)
    waiters.holder.add(-100_000 + 10_000)
    assert waiters.resume() == [0, 1]  # the third would hold 20,000 + 20,000 of 30,000
    assert waiters.resume() == []
    assert waiters.pool.waiting == 3
    assert waiters.pool.next_time() == math.inf


def test_next_connection_resumes_if_one_leaves_its_space() -> None:
    waiters = Waiters([20_000] * 5)
    waiters.holder.add(-100_000 + 10_000)
    assert waiters.resume(take=False) == [0, 1]
    assert waiters.pool.next_time() < math.inf
    assert waiters.resume() == [2, 3]


def test_connection_that_stopped_waiting_is_not_resumed() -> None:
    waiters = Waiters([20_000, 20_000])
    waiters.accounts[0].stop_waiting()
    waiters.accounts[0].stop_waiting()
    waiters.holder.add(-waiters.holder.held)
    assert waiters.resume() == [1]


def test_space_of_the_sender_does_not_count_against_its_frame() -> None:
    pool = BufferPool(1)
    source, sink = pool.open_account("source"), pool.open_account("sink")
    source.add(FREE + 50_000)
    assert sink.fits(FREE + 50_000, source)
    assert not sink.fits(FREE + 50_000)


def test_connection_may_wait_for_the_space_of_another() -> None:
    pool = BufferPool(100_000)
    source, sink, holder = (pool.open_account(each) for each in ("source", "sink", "holder"))
    holder.add(FREE + 100_000)
    resumed: list[str] = []
    source.wait(sink, FREE + 20_000, lambda: resumed.append("source"))
    source.add(FREE + 1)
    source.add(-FREE - 1)
    pool.resume_waiting(0.0)
    assert resumed == []
    holder.add(-100_000)
    pool.resume_waiting(0.0)
    assert resumed == ["source"]


@pytest.mark.parametrize("count", [SCAN_ALL_UP_TO + 10, 5000])
def test_more_waiting_connections_are_scanned_less_often(count: int) -> None:
    waiters = Waiters([1000] * count)
    pool = waiters.pool
    assert pool.next_time() == math.inf
    waiters.holder.add(-4000)
    assert pool.next_time() < math.inf
    assert waiters.resume(10.0)
    waiters.holder.add(-10_000)
    next_time = pool.next_time()
    assert next_time == 10.0 + count * SCAN_INTERVAL
    assert not waiters.resume((10.0 + next_time) / 2)
    assert waiters.resume(next_time)
