"""The last log lines that matter, for the page."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from offset_common.relay.log import log_event
from offset_common.status.recent_log import KEPT, RecentLog


@pytest.fixture
def log() -> Iterator[RecentLog]:
    """A recent log, open until the end of the test."""
    opened = RecentLog()
    yield opened
    opened.close()


def events(log: RecentLog) -> list[str]:
    """Return the events, the newest first."""
    return [line.event for line in log.lines()]


def test_lines_are_newest_first_with_their_fields(log: RecentLog) -> None:
    log_event("one", file=["a", "b"], missing=None)
    log_event("two", logging.WARNING, count=3)
    second, first = log.lines()
    assert (first.event, first.level, first.fields) == ("one", "info", {"file": "a,b"})
    assert (second.event, second.level, second.fields) == ("two", "warning", {"count": "3"})


def test_lines_that_strangers_cause_are_left_out(log: RecentLog) -> None:
    log_event("connection ended", collapse="IDLE")
    log_event("cannot accept", logging.WARNING, collapse="resources")
    assert events(log) == ["cannot accept"]


def test_repeated_events_take_one_place(log: RecentLog) -> None:
    log_event("stopping")
    for number in range(1000):
        log_event("cannot accept", logging.WARNING, number=number)
    assert events(log) == ["cannot accept", "stopping"]
    assert (log.lines()[0].times, log.lines()[0].fields) == (1000, {"number": "999"})


def test_a_bounded_number_is_kept(log: RecentLog) -> None:
    for number in range(3 * KEPT):
        log_event(f"event {number}")
    assert events(log) == [f"event {number}" for number in reversed(range(2 * KEPT, 3 * KEPT))]


def test_an_exception_is_shown_in_short(log: RecentLog) -> None:
    log_event("bug", logging.ERROR, exc_info=ValueError("x" * 1000))
    assert log.lines()[0].fields["error"].startswith("ValueError('xxx")
    assert len(log.lines()[0].fields["error"]) <= 300


def test_a_closed_log_keeps_nothing(log: RecentLog) -> None:
    log.close()
    log_event("late")
    assert events(log) == []
