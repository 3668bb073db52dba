"""Peers that connect, or prove who they are, and then say nothing."""

from __future__ import annotations

import time

import pytest

from tests.attack.conftest import BeginSiege
from tests.attack.crowd import Crowd
from tests.attack.siege import Siege

HANDSHAKE_OR_INIT = 12.5  # seconds in which whoever says nothing is closed


def assert_all_are_closed_in_time(crowd: Crowd, began: float) -> None:
    """See that the relay lets none of them stay."""
    left = HANDSHAKE_OR_INIT - (time.monotonic() - began)
    assert crowd.all_end(crowd.visitors, left + 2.0)


@pytest.mark.parametrize("count", [8, 2000])
def test_who_is_silent_after_the_handshake_holds_up_nobody(siege: Siege, count: int) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    assert len(crowd.prove(count)) == count
    assert_all_are_closed_in_time(crowd, began + 3.0)
    assert siege.count_lines("no InitConnection in time") >= min(count, 10)


def test_sockets_that_send_nothing_hold_up_nobody(siege: Siege) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    crowd.dial(2000)
    assert_all_are_closed_in_time(crowd, began)
    assert siege.count_lines("no handshake in time") >= 1


@pytest.mark.parametrize("sent", [bytes(2), bytes(7) + b"\x04" + bytes(4)], ids=["two bytes", "a version"])
def test_who_sends_a_little_and_stops_holds_up_nobody(siege: Siege, sent: bytes) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    for visitor in crowd.dial(600):
        visitor.send_bytes(sent)
    assert_all_are_closed_in_time(crowd, began)


def test_who_stops_after_the_first_handshake_frame_holds_up_nobody(siege: Siege) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    for visitor in crowd.dial(600):
        visitor.begin_handshake()
        visitor.connection = None  # says nothing more
    assert_all_are_closed_in_time(crowd, began)


def test_the_silent_give_way_oldest_first_where_they_are_too_many(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--unproven", "100")
    crowd = siege.crowd()
    first = crowd.dial(100)
    crowd.dial(300)
    assert crowd.all_end(first, 2.0)
    assert siege.count_lines("gave way") >= 1
