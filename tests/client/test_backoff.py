"""The delays between attempts to reach a relay."""

from __future__ import annotations

import pytest

from offset_common.client.backoff import FIRST_DELAY, STEADY_TIME, Backoff


@pytest.mark.parametrize(("age", "factor"), [(STEADY_TIME + 1, 1), (STEADY_TIME - 1, 4), (0, 4)])
def test_only_a_steady_listener_resets_the_delay(age: float, factor: int) -> None:
    backoff = Backoff(lambda: 1.0)
    assert [backoff.next(), backoff.next()] == [FIRST_DELAY, 2 * FIRST_DELAY]
    backoff.listener_ended(age)
    assert backoff.next() == factor * FIRST_DELAY
