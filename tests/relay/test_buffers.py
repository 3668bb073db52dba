"""The budget of all buffers: who may, who waits, who gives way."""

from __future__ import annotations

import pytest

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.relay.buffers import PATIENCE_WITH_HOLDERS, SPARE_BUFFER_FROM, Budget, SpareBuffers
from offset_common.relay.limits import FREE_BUFFER_SIZE, OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER


@pytest.fixture
def budget() -> Budget[str]:
    return Budget(1000)


def reserve(budget: Budget[str], holder: str, size: int, now: float = 0.0) -> bool:
    return budget.reserve(holder, size, 0, now)


def test_what_fits_is_given_and_what_does_not_waits(budget: Budget[str]) -> None:
    assert reserve(budget, "a", 600)
    assert not reserve(budget, "b", 600)
    assert budget.used == 600
    assert budget.somebody_waits


def test_one_frame_may_always_be_under_way(budget: Budget[str]) -> None:
    assert reserve(budget, "a", 5000)
    assert not reserve(budget, "b", 1)


def test_what_is_held_already_is_not_counted_twice(budget: Budget[str]) -> None:
    budget.used = 300
    assert budget.reserve("a", 1000, 300, 0.0)
    assert budget.used == 1000
    budget.release("a", 1000)
    assert budget.used == 0


def test_who_waits_may_try_again_once_there_is_room(budget: Budget[str]) -> None:
    reserve(budget, "a", 1000)
    reserve(budget, "b", 600)
    reserve(budget, "c", 600)
    assert budget.take_waiting() == []
    budget.release("a", 1000)
    assert budget.take_waiting() == ["b", "c"]
    assert not budget.somebody_waits


def test_who_ended_waits_no_more(budget: Budget[str]) -> None:
    reserve(budget, "a", 1000)
    reserve(budget, "b", 600)
    budget.forget("b")
    budget.forget("nobody")
    assert not budget.somebody_waits


def test_who_holds_for_longest_gives_way_after_a_while_if_somebody_waits(
    budget: Budget[str],
) -> None:
    reserve(budget, "a", 500, now=10.0)
    reserve(budget, "b", 500, now=11.0)
    assert budget.overdue_holder(1000.0) is None
    reserve(budget, "c", 500, now=11.0)
    assert budget.overdue_holder(10.0 + PATIENCE_WITH_HOLDERS - 0.1) is None
    assert budget.overdue_holder(10.0 + PATIENCE_WITH_HOLDERS) == "a"


def test_marks_are_lower_while_the_budget_is_exhausted(budget: Budget[str]) -> None:
    assert (budget.high_water, budget.low_water) == (OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER)
    budget.used = 1000
    assert budget.exhausted
    assert (budget.high_water, budget.low_water) == (FREE_BUFFER_SIZE, 0)


def test_large_buffers_are_used_again_and_a_few_are_kept() -> None:
    spare = SpareBuffers()
    taken = [spare.take(SPARE_BUFFER_FROM) for _ in range(10)]
    assert all(len(buffer) >= MAX_FRAME_SIZE for buffer in taken)
    for buffer in taken:
        spare.give_back(buffer)
    assert spare.take(MAX_FRAME_SIZE) in taken
    assert len(spare._spare) < 5


def test_a_small_buffer_has_its_own_size() -> None:
    spare = SpareBuffers()
    small = spare.take(100)
    assert len(small) == 100
    spare.give_back(small)
    assert len(spare.take(SPARE_BUFFER_FROM)) >= MAX_FRAME_SIZE
