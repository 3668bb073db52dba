"""Deadlines: none expires early or more than a tick late, and none is left over."""

from __future__ import annotations

import math
from typing import Optional

from hypothesis import given
from hypothesis import strategies as st

from offset_common.relay.deadlines import TICK, Deadlines

MOST = 3  # items taken at once
TIMES = st.floats(min_value=0, max_value=200, allow_nan=False)


@given(st.dictionaries(st.integers(0, 50), TIMES, min_size=1))
def test_every_item_expires_once_and_in_time(whens: dict[int, float]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    for item, when in whens.items():
        deadlines.schedule(item, when)
    came: dict[int, float] = {}
    while (now := deadlines.next_time()) < math.inf:
        expired = deadlines.take_expired(now, MOST)
        assert 1 <= len(expired) <= MOST
        for item in expired:
            assert item not in came
            came[item] = now
    assert came.keys() == whens.keys()
    assert all(whens[item] <= now <= whens[item] + TICK for item, now in came.items())


def test_expired_item_may_be_scheduled_for_the_past() -> None:
    deadlines: Deadlines[str] = Deadlines()
    deadlines.schedule("item", 5.0)
    assert deadlines.take_expired(6.0, MOST) == ["item"]
    deadlines.schedule("item", 1.0)
    assert deadlines.take_expired(6.0, MOST) == ["item"]


@given(st.lists(st.tuples(st.integers(0, 9), st.one_of(st.none(), TIMES))))
def test_no_item_is_left_over(steps: list[tuple[int, Optional[float]]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    alive: dict[int, float] = {}
    for item, when in steps:
        if when is None:
            deadlines.cancel(item)
            alive.pop(item, None)
        else:
            deadlines.schedule(item, when)
            alive[item] = when
        assert len(deadlines) == len(alive)
    assert sorted(deadlines.take_expired(1000.0, 100)) == sorted(alive)
    assert len(deadlines) == 0
    assert deadlines.next_time() == math.inf
    assert not any(vars(deadlines).values())
