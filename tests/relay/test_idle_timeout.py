"""The idle timeout of a relay that was suspended: what peers sent meanwhile counts."""

from __future__ import annotations

import os

from offset_common.constants import IDLE_TIMEOUT
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.event_loop import COARSE_INTERVAL, EACH_IN_ROUND
from tests.relay.harness import LATE, Harness

LISTENERS = 2 * EACH_IN_ROUND + 5  # more than are handled in the first round afterwards


def test_suspended_relay_keeps_peers_that_were_in_time(harness: Harness) -> None:
    listeners = [harness.listener() for _ in range(LISTENERS)]
    harness.run_until(lambda: all(each.connection.polled_coarsely for each in listeners))
    for each in listeners:
        each.reject(os.urandom(32))
    harness.advance(IDLE_TIMEOUT + LATE)
    harness.advance(LATE)
    assert harness.ends == []
    harness.advance(IDLE_TIMEOUT + LATE)
    assert {harness.reason_of(each.connection) for each in listeners} == {CloseReason.IDLE}


def test_rest_of_a_frame_must_be_in_time(harness: Harness) -> None:
    listener = harness.listener()
    data = listener.encrypt(b"message")
    listener.write(data[:1])
    harness.advance(COARSE_INTERVAL)
    assert listener.connection.input.kept == 1
    harness.loop.turns.push = lambda entry: None  # type: ignore[method-assign]  # the relay reads no more
    listener.write(data[1:-1])
    harness.advance(IDLE_TIMEOUT + LATE)
    assert harness.reason_of(listener.connection) is CloseReason.IDLE
