"""The budget of all buffers: who may, who waits, who gives way."""

from __future__ import annotations

import pytest
from offset_common.relay.buffers import (
    AGED,
    LARGE_FRAMES_SHARE,
    ORDINARY_SIZE,
    PATIENCE_WITH_BEGUN,
    PATIENCE_WITH_KEEPERS,
    PATIENCE_WITH_SLOW,
    PATIENCE_WITH_STALLED,
    SPARE_BUFFER_FROM,
    Budget,
    SpareBuffers,
)

from offset_common.constants import MAX_FRAME_SIZE
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
    assert budget.take_waiting(0.0) == []
    budget.release("a", 1000)
    assert budget.take_waiting(0.0) == ["b"]
    reserve(budget, "b", 600)
    assert budget.take_waiting(0.0) == []
    budget.release("b", 600)
    assert budget.take_waiting(0.0) == ["c"]
    assert not budget.somebody_waits


def test_room_that_others_give_back_is_found_as_well(budget: Budget[str]) -> None:
    assert reserve(budget, "under way", 100)
    budget.used = 900
    assert not reserve(budget, "large", 600)
    budget.used = 950
    assert not reserve(budget, "small", 80)
    assert budget.take_waiting(0.0) == []
    budget.used = 910
    assert budget.take_waiting(0.0) == ["small"]
    budget.used = 400
    assert budget.take_waiting(0.0) == ["large"]


def test_who_needs_least_is_first(budget: Budget[str]) -> None:
    reserve(budget, "a", 1000)
    for holder, size in (("large", 700), ("small", 200), ("medium", 300)):
        assert not reserve(budget, holder, size)
    budget.release("a", 1000)
    assert budget.take_waiting(0.0) == ["small", "medium"]


def test_large_frames_leave_a_part_to_ordinary_ones() -> None:
    budget: Budget[str] = Budget(80 * ORDINARY_SIZE)
    large = [f"large {number}" for number in range(60)]
    given = [holder for holder in large if reserve(budget, holder, 2 * ORDINARY_SIZE)]
    assert len(given) == 80 * LARGE_FRAMES_SHARE / 2
    ordinary = [f"ordinary {number}" for number in range(60)]
    given = [holder for holder in ordinary if reserve(budget, holder, ORDINARY_SIZE)]
    assert len(given) == 80 * (1 - LARGE_FRAMES_SHARE)


def test_a_large_frame_that_waits_is_large_however_much_of_it_is_held() -> None:
    budget: Budget[str] = Budget(80 * ORDINARY_SIZE)
    assert reserve(budget, "other", 1000)
    budget.used = 70 * ORDINARY_SIZE
    assert not budget.reserve("large", ORDINARY_SIZE + 1, 10_000, 0.0)
    assert budget.serves_nobody
    budget.used -= 1
    assert budget.take_waiting(0.0) == []
    budget.used = 50 * ORDINARY_SIZE
    assert budget.take_waiting(0.0) == ["large"]


def test_a_frame_of_which_nothing_comes_gives_way_sooner_if_it_has_only_begun() -> None:
    progress = {"begun": 100, "under way": 100_000, "other": 0}
    budget: Budget[str] = Budget(1000, progress.__getitem__)
    for holder in ("begun", "under way"):
        assert budget.reserve(holder, 500, progress[holder], 10.0)
    budget.used = 1000
    assert not reserve(budget, "other", 500, now=10.0)
    assert budget.overdue(10.0 + PATIENCE_WITH_BEGUN - 0.2) == []
    assert budget.overdue(10.0 + PATIENCE_WITH_BEGUN) == ["begun"]
    budget.release("begun", 500)
    assert budget.overdue(10.0 + PATIENCE_WITH_STALLED - 0.2) == []
    assert budget.overdue(10.0 + PATIENCE_WITH_STALLED) == ["under way"]


def test_who_ended_waits_no_more(budget: Budget[str]) -> None:
    reserve(budget, "a", 1000)
    reserve(budget, "b", 600)
    budget.forget("b")
    budget.forget("nobody")
    assert not budget.somebody_waits


def test_a_frame_that_comes_slowly_gives_way_after_long_and_the_slowest_first() -> None:
    came = {"slow": 5000, "slower": 5000}
    budget: Budget[str] = Budget(10_000_000, came.__getitem__)
    for holder in came:
        assert reserve(budget, holder, 1_000_000, now=10.0)
    budget.used = budget.limit
    assert not reserve(budget, "waiting", 500, now=10.0)
    ended: list[str] = []
    for step in range(1, 10 * int(PATIENCE_WITH_SLOW) + 3):
        came["slow"] += 3000
        came["slower"] += 300
        overdue = budget.overdue(10.0 + step / 10)
        assert not overdue or step / 10 >= PATIENCE_WITH_SLOW - 0.2
        ended += overdue
    assert set(ended) == {"slower"}


def test_what_was_begun_without_a_reservation_gives_way_where_the_peer_sends_no_more() -> None:
    is_read = {"old": True, "paused": False, "waits": True, "new": True, "done": True}
    budget: Budget[str] = Budget(1000, is_read=is_read.__getitem__)
    for holder in ("old", "paused", "waits", "done"):
        budget.begin(holder, 10.0)
    budget.finish("done")
    budget.begin("old", 11.0)  # more of the same
    budget.begin("new", 11.5)
    budget.used = 1000
    assert budget.overdue(20.0) == [], "nobody waits"
    assert not reserve(budget, "waits", 500, now=10.0)
    assert budget.overdue(10.0 + PATIENCE_WITH_STALLED - 0.2) == []
    assert budget.overdue(10.0 + PATIENCE_WITH_STALLED) == ["old"]


def test_marks_are_lower_while_the_budget_is_exhausted(budget: Budget[str]) -> None:
    assert (budget.high_water, budget.low_water) == (OUTPUT_HIGH_WATER, OUTPUT_LOW_WATER)
    budget.used = 1000
    assert budget.exhausted
    assert (budget.high_water, budget.low_water) == (FREE_BUFFER_SIZE, 0)


def test_large_buffers_are_used_again_and_a_few_are_kept() -> None:
    spare = SpareBuffers()
    taken = [spare.take(SPARE_BUFFER_FROM) for _ in range(10)]
    large = [buffer for buffer in taken if len(buffer) >= MAX_FRAME_SIZE]
    assert 0 < len(large) < 5, "what is filled of the others is what was counted"
    assert all(len(buffer) == SPARE_BUFFER_FROM for buffer in taken if buffer not in large)
    for buffer in taken:
        spare.give_back(buffer)
    assert any(spare.take(MAX_FRAME_SIZE) is buffer for buffer in large)
    assert len(spare._spare) < 5


def test_a_small_buffer_has_its_own_size() -> None:
    spare = SpareBuffers()
    small = spare.take(100)
    assert len(small) == 100
    spare.give_back(small)
    assert len(spare.take(SPARE_BUFFER_FROM)) >= MAX_FRAME_SIZE


def stalled(budget: Budget[str], keeper: str, since: float) -> None:
    """Let a peer take nothing of much that waits for it."""
    budget.used += 2 * FREE_BUFFER_SIZE
    budget.keep(keeper, 2 * FREE_BUFFER_SIZE, since)


def test_where_others_wait_the_peer_that_took_nothing_for_longest_gives_way(budget: Budget[str]) -> None:
    stalled(budget, "long", 1.0)
    stalled(budget, "longer", 0.0)
    budget.keep("long", 2 * FREE_BUFFER_SIZE, 1.0)
    stalled(budget, "moving", 0.0)
    budget.keep("moving", FREE_BUFFER_SIZE + 1, 5.0)
    budget.keep("longer", 2 * FREE_BUFFER_SIZE, 2.0)
    assert budget.overdue(9.0) == [], "nobody waits"
    assert not reserve(budget, "large", 100)
    assert budget.overdue(1.0 + PATIENCE_WITH_KEEPERS - 0.1) == []
    assert budget.overdue(1.0 + PATIENCE_WITH_KEEPERS) == ["long"]


def test_what_waits_for_a_peer_gives_way_to_a_large_frame_although_ordinary_ones_find_room() -> None:
    budget: Budget[str] = Budget(100 * ORDINARY_SIZE)
    budget.used = 90 * ORDINARY_SIZE
    budget.keep("stalled", 80 * ORDINARY_SIZE, 0.0)
    assert reserve(budget, "ordinary", ORDINARY_SIZE)
    assert not reserve(budget, "large", 8 * ORDINARY_SIZE)
    assert "stalled" in budget.overdue(PATIENCE_WITH_KEEPERS)


def test_who_keeps_little_does_not_give_way(budget: Budget[str]) -> None:
    budget.used = budget.limit
    budget.keep("little", FREE_BUFFER_SIZE, 0.0)
    budget.keep("done", 2 * FREE_BUFFER_SIZE, 0.0)
    budget.keep("done", 0, 1.0)
    stalled(budget, "ended", 0.0)
    budget.forget("ended")
    assert not reserve(budget, "large", 100)
    assert budget.overdue(99.0) == []


def test_who_waits_for_long_is_not_passed_by_those_who_need_less(budget: Budget[str]) -> None:
    reserve(budget, "a", 1000)
    assert not reserve(budget, "large", 700, now=10.0)
    assert not reserve(budget, "small", 200, now=10.0 + AGED)
    budget.used -= 300
    assert budget.take_waiting(10.0 + AGED) == []
    budget.release("a", 700)
    assert budget.take_waiting(10.0 + AGED) == ["large", "small"]


def test_nobody_is_served_until_there_is_room_for_who_needs_least(budget: Budget[str]) -> None:
    reserve(budget, "a", 900)
    assert not budget.serves_nobody
    for holder, size in (("large", 700), ("small", 200)):
        assert not reserve(budget, holder, size)
    assert budget.serves_nobody
    budget.used -= 100
    assert not budget.serves_nobody


def test_what_waits_in_full_memory_is_not_passed_by_one_more_frame(budget: Budget[str]) -> None:
    budget.used = budget.limit
    assert not reserve(budget, "large", 5000)
