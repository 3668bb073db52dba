"""What a connection leaves behind is freed at once: a search for cycles is rare, and may be too late."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator

import pytest
from offset_common.relay.link import Link

from offset_common.wire.messages import InitRole
from tests.relay.rig import Rig


@pytest.fixture
def no_search() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def links() -> int:
    """Count the links that are in memory."""
    return sum(isinstance(each, Link) for each in gc.get_objects())


def live_and_end(rig: Rig) -> None:
    """Let connections of every role come and go, in order and by surprise."""
    listener = rig.listener()
    waiting = rig.admit().init(InitRole.CONNECT, listener.key)
    assert listener.incoming() == waiting.key
    waiting.send(os.urandom(20_000))
    newcomer = rig.admit()
    refused = rig.admit().init(InitRole.CONNECT, bytes(32))
    near, far = rig.tunnel()
    near.send(os.urandom(300_000), b"end")
    assert len(far.receive()) == 300_000
    broken, partner = rig.tunnel()
    broken.write(bytes(7) + b"\x40" + bytes(64))  # not the next message of its key
    stranger = rig.enter()
    stranger.close()
    nonsense = rig.enter()
    nonsense.send(b"\xff" * 40)
    for mate in (refused, broken, partner):
        mate.wait_for_end()
    for mate in rig.mates:
        mate.sock.close()
    nonsense.close()
    rig.until(lambda: not len(rig.relay.lobby.origins))
    assert newcomer.link.closed
    rig.mates.clear()
    rig.ends.clear()


def test_links_are_freed_when_they_end(rig: Rig, no_search: None) -> None:
    live_and_end(rig)
    rig.rounds(3)
    assert links() == 0
