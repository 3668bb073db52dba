"""Fair queueing: the address that has used the least goes next, and in it the entry that has."""

from __future__ import annotations

import gc
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.fair_queue import LEAD, FairQueue, QueueEntry

COSTS = st.floats(min_value=0.0001, max_value=0.01)  # seconds of a turn
SHORT_TURN = LEAD / 10  # seconds


class Entry(QueueEntry):
    """A connection with a name."""

    def __init__(self, queue: FairQueue[Entry], address: str, name: str = "") -> None:
        super().__init__(queue.address(address))
        self.address = address
        self.name = name or address

    def __repr__(self) -> str:
        return self.name


def serve(queue: FairQueue[Entry], cost: float = 1.0, again: bool = False) -> Entry:
    """Give the next entry a turn, and queue it again if `again`; return it."""
    entry = queue.pop()
    queue.charge(entry, cost, busy=again)
    if again:
        queue.push(entry)
    return entry


def test_equal_entries_go_in_the_order_of_arrival() -> None:
    queue: FairQueue[Entry] = FairQueue()
    entries = [Entry(queue, "a", str(number)) for number in range(5)]
    for entry in entries:
        queue.push(entry)
    assert [serve(queue) for _ in entries] == entries
    assert not queue.waiting


def test_waiting_entry_keeps_its_one_place() -> None:
    queue: FairQueue[Entry] = FairQueue()
    first, second = Entry(queue, "a", "first"), Entry(queue, "a", "second")
    for entry in (first, second, first, first):
        queue.push(entry)
    assert [serve(queue), serve(queue)] == [first, second]
    assert not queue.waiting


@given(st.lists(st.tuples(COSTS, COSTS), min_size=5, max_size=80), st.integers(1, 5), st.integers(1, 5))
def test_backlogged_addresses_are_served_equally(
    costs: list[tuple[float, float]], entries_of_a: int, entries_of_b: int
) -> None:
    """Goyal, Vin and Cheng, theorem 1: the difference is a turn of each group at most, and a lead."""
    queue: FairQueue[Entry] = FairQueue()
    for address, count in (("a", entries_of_a), ("b", entries_of_b)):
        for _ in range(count):
            queue.push(Entry(queue, address))
    served: Counter[str] = Counter()
    largest = {"a": 0.0, "b": 0.0}
    for cost_of_a, cost_of_b in costs:
        entry = queue.pop()
        cost = cost_of_a if entry.address == "a" else cost_of_b
        queue.charge(entry, cost)
        queue.push(entry)
        served[entry.address] += cost  # type: ignore[assignment]
        largest[entry.address] = max(largest[entry.address], cost)
        assert abs(served["a"] - served["b"]) <= 2 * (largest["a"] + largest["b"]) + LEAD + 1e-9


@given(st.lists(COSTS, min_size=5, max_size=80), st.integers(2, 6))
def test_backlogged_entries_of_an_address_share_it(costs: list[float], count: int) -> None:
    """No two entries differ by more than two turns among the busy ones, plus two from when all were light."""
    queue: FairQueue[Entry] = FairQueue()
    entries = [Entry(queue, "a", str(number)) for number in range(count)]
    for entry in entries:
        queue.push(entry)
    served = dict.fromkeys(entries, 0.0)
    for cost in costs:
        entry = queue.pop()
        queue.charge(entry, cost, busy=True)
        queue.push(entry)
        served[entry] += cost
        assert max(served.values()) - min(served.values()) <= 4 * max(costs) + 1e-9


@given(st.lists(st.tuples(st.floats(0.001, 0.01), st.floats(0.0, 0.0009)), max_size=40), st.integers(1, 50))
def test_light_entry_waits_for_two_busy_turns_at_most(
    costs: list[tuple[float, float]], busy_ones: int
) -> None:
    queue: FairQueue[Entry] = FairQueue()
    for number in range(busy_ones):
        queue.push(Entry(queue, "a", f"busy {number}"))
    for _ in range(4 * busy_ones):
        serve(queue, 0.01, again=True)
    light = Entry(queue, "a", "light")
    for busy_cost, light_cost in costs:
        queue.push(light)
        turns = 0
        while (entry := queue.pop()) is not light:
            queue.charge(entry, busy_cost, busy=True)
            queue.push(entry)
            turns += 1
        queue.charge(light, light_cost)
        assert turns <= 2
        serve(queue, busy_cost, again=True)


def test_two_long_turns_in_a_row_make_an_entry_busy() -> None:
    queue: FairQueue[Entry] = FairQueue()
    entry = Entry(queue, "a")
    for cost, light in ((0.002, True), (0.0001, True), (0.002, True), (0.002, False), (0.0001, True)):
        queue.push(entry)
        serve(queue, cost)
        assert entry.light is light


def test_light_entries_leave_turns_to_busy_ones() -> None:
    queue: FairQueue[Entry] = FairQueue()
    for number in range(20):
        queue.push(Entry(queue, "a", "light" if number % 2 else "busy"))
    used: Counter[str] = Counter()
    for _ in range(2000):
        entry = queue.pop()
        queue.charge(entry, SHORT_TURN, busy=entry.name == "busy")
        queue.push(entry)
        used[entry.name] += 1
    assert 0.88 < used["light"] / 2000 < 0.93


def test_light_entry_passes_long_turns_of_many_addresses() -> None:
    queue: FairQueue[Entry] = FairQueue()
    light = Entry(queue, "light")
    for _ in range(100):  # by now it has used more than the others
        queue.push(light)
        serve(queue, LEAD / 10)
    for number in range(50):
        queue.push(Entry(queue, f"slow {number}"))
    for _ in range(5):
        serve(queue, 2 * LEAD)
        queue.push(light)
        assert serve(queue, LEAD / 10) is light


def test_light_address_gets_no_more_than_busy_ones() -> None:
    queue: FairQueue[Entry] = FairQueue()
    light, busy = Entry(queue, "light"), Entry(queue, "busy")
    queue.push(light)
    serve(queue, SHORT_TURN)
    queue.push(busy)
    used: Counter[str] = Counter()
    for _ in range(100):
        queue.push(light)
        used[serve_next(queue, light).name] += 1
    assert abs(used["light"] - used["busy"]) <= 1 + LEAD / SHORT_TURN


def serve_next(queue: FairQueue[Entry], light: Entry) -> Entry:
    """Give the next entry a short turn; all but the light one have more to do."""
    entry = queue.pop()
    queue.charge(entry, SHORT_TURN, busy=entry is not light)
    if entry is not light:
        queue.push(entry)
    return entry


def test_idling_earns_no_credit() -> None:
    queue: FairQueue[Entry] = FairQueue()
    busy, idle = Entry(queue, "busy"), Entry(queue, "idle")
    queue.push(idle)
    serve(queue)
    queue.push(busy)
    for _ in range(100):
        serve(queue, again=True)
    queue.push(idle)
    turns = Counter(serve(queue, again=True).address for _ in range(100))
    assert abs(turns["idle"] - turns["busy"]) <= 2


def test_address_is_forgotten_with_its_last_entry() -> None:
    queue: FairQueue[Entry] = FairQueue()
    first, second = Entry(queue, "a"), Entry(queue, "a")
    queue.push(first)
    serve(queue)
    gc.disable()
    try:
        del first
        assert len(queue._addresses) == 1
        del second
        assert len(queue._addresses) == 0
    finally:
        gc.enable()
