"""Peers that connect, or prove who they are, and then say nothing."""

from __future__ import annotations

import time

import pytest

from offset_common.constants import HANDSHAKE_TIMEOUT, INIT_TIMEOUT
from tests.attack.conftest import BeginSiege
from tests.attack.siege import Siege

LATE = 1.5  # seconds that a deadline may be late under attack
VERSION_FRAME = bytes(7) + b"\x04" + bytes(4)


@pytest.mark.parametrize("count", [8, pytest.param(2000, marks=pytest.mark.slow)])
def test_who_is_silent_after_the_handshake_holds_up_nobody(siege: Siege, count: int) -> None:
    crowd = siege.crowd()
    proven = crowd.prove(count)
    assert len(proven) == count
    assert crowd.all_end(proven, INIT_TIMEOUT + LATE)
    siege.relay.wait_for_line("no InitConnection in time", min(count, 8))


@pytest.mark.slow
def test_sockets_that_send_nothing_hold_up_nobody(siege: Siege) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    silent = crowd.dial(2000)
    assert crowd.all_end(silent, HANDSHAKE_TIMEOUT + LATE - (time.monotonic() - began))
    siege.relay.wait_for_line("no handshake in time", 1)


@pytest.mark.slow
def test_who_stops_within_the_handshake_holds_up_nobody(siege: Siege) -> None:
    crowd, began = siege.crowd(), time.monotonic()
    for visitor in crowd.dial(600):
        visitor.send_bytes(bytes(2))
    for visitor in crowd.dial(200):
        visitor.send_bytes(VERSION_FRAME)
    for visitor in crowd.dial(600):
        visitor.begin_handshake()
        visitor.connection = None  # says nothing more
    assert crowd.all_end(crowd.visitors, HANDSHAKE_TIMEOUT + LATE - (time.monotonic() - began))


def test_the_silent_give_way_oldest_first_where_they_are_too_many(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--unproven", "100")
    crowd = siege.crowd()
    first = crowd.dial(100)
    crowd.dial(300)
    assert crowd.all_end(first, 2.0)
    siege.relay.wait_for_line("gave way", 1)
