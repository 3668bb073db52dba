"""Very many connects for one listener."""

from __future__ import annotations

import pytest

from offset_common.identity import Identity
from offset_common.wire.messages import IncomingConnection, InitRole
from tests.attack.conftest import BeginSiege
from tests.attack.siege import Siege


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_connects_within_a_moment_are_all_announced(siege: Siege, count: int) -> None:
    crowd = siege.crowd()
    listener = crowd.listen()
    callers = crowd.connect(count, listener.identity.public_key)
    assert crowd.run(lambda: len(listener.messages) >= count)
    announced = [IncomingConnection.decode(message).public_key for message in listener.messages]
    assert sorted(announced) == sorted(each.identity.public_key for each in callers)


def test_connects_over_the_limit_of_a_listener_are_closed_at_once(begin_siege: BeginSiege) -> None:
    siege = begin_siege("--waiting-for", "100")
    crowd = siege.crowd()
    listener = crowd.listen()
    callers = crowd.connect(200, listener.identity.public_key)
    assert crowd.run(lambda: sum(each.ended for each in callers) == 100, 3.0)
    assert len(listener.messages) == 100
    siege.relay.wait_for_line("too many waiting connects")


def test_a_listener_that_reads_nothing_is_closed_before_its_announcements_fill_the_memory(
    siege: Siege,
) -> None:
    crowd = siege.crowd()
    listener = crowd.listen()
    listener.stop_reading()
    key = listener.identity.public_key
    caller = Identity.generate()
    for _ in range(8):
        crowd.connect(200, key, [caller])
        for each in crowd.visitors:
            if each is not listener:
                each.end()
        crowd.visitors = [listener]


def test_rejections_of_nobody_without_end_cost_only_their_sender(siege: Siege) -> None:
    crowd = siege.crowd()
    listener = crowd.listen()
    for _ in range(20000):
        listener.seal(InitRole.LISTEN.name.encode() if False else IncomingConnection(bytes(32)).encode())
    listener.send_connection()
    crowd.run(lambda: not listener.waiting_to_send)
