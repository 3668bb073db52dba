"""An exception that nobody expected, in each room: it ends one connection, is told and counted."""

from __future__ import annotations

from typing import Callable

import pytest
from offset_common.relay.handshakes import HandshakePool
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason

from offset_common.channel.connection import Connection
from offset_common.relay.registry import Registry
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.rig import Mate, Rig
from tests.relay.test_lobby import Caller


class OurBugError(Exception):
    """A bug."""


def bug(*_: object, **__: object) -> None:
    """Do what nobody expected."""
    raise OurBugError


def assert_told(rig: Rig, link: Link, count: int = 1) -> None:
    """Check that the bug ended this link, and is told and counted."""
    assert rig.reason_of(link) is CloseReason.BUG
    assert rig.relay.bugs == count
    (text,) = [line for line in rig.log.lines if line.startswith("a bug of the relay ended ")]
    assert "Traceback" in text
    assert text.endswith("OurBugError")
    assert "in bug" in text


@pytest.fixture
def canary(rig: Rig) -> Callable[[], None]:
    """Make a tunnel and a listener; check afterwards that they and newcomers are served."""
    near, far = rig.tunnel()
    listener = rig.listener()

    def check() -> None:
        near.send(b"there")
        assert far.receive() == b"there"
        other = rig.admit().init(InitRole.CONNECT, listener.key)
        assert listener.incoming() == other.key
        Caller(rig).prove().sock.close()

    return check


Break = Callable[[Rig, pytest.MonkeyPatch], Link]


def in_the_lobby(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    patch.setattr(Link, "watch", bug)
    rig.enter().close()
    return rig.ends[-1].link


def in_the_handshake(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    caller = Caller(rig)
    patch.setattr(HandshakePool, "_receive", bug)
    caller.sock.send(bytes(8))
    assert caller.link is not None
    rig.reason_of(caller.link)
    return caller.link


def after_the_handshake(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    caller = Caller(rig)
    patch.setattr(rig.relay.roles.newcomers, "admit", bug)
    caller.prove()
    assert caller.link is not None
    return caller.link


def in_the_message(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    mate = rig.admit()
    patch.setattr(InitConnection, "decode", bug)
    mate.send(b"anything")
    return mate.link


def in_the_registry(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    mate = rig.admit()
    patch.setattr(Registry, "listen", bug)
    mate.send(InitConnection(InitRole.LISTEN).encode())
    return mate.link


def in_a_tunnel(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    near, far = rig.tunnel()
    patch.setattr(rig.relay.tunnels, "process", bug)
    near.send(b"anything")
    assert far.wait_for_end() == []
    return near.link


def at_the_join(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    listener = rig.listener()
    near = rig.admit().init(InitRole.CONNECT, listener.key)
    far = rig.admit(listener.identity)
    patch.setattr(rig.relay.tunnels, "join", bug)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    assert near.wait_for_end() == []
    return far.link


def in_the_channel(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    mate = rig.listener()
    patch.setattr(Connection, "receive_frame", bug)
    mate.sock.send(mate.sealed(b"anything"))
    return mate.link


def at_a_deadline(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    mate = rig.listener()
    with pytest.MonkeyPatch.context() as inner:
        inner.setattr(Connection, "handle_time", bug)
        rig.loop.deadlines.schedule(mate.link, rig.loop.now)
        rig.reason_of(mate.link)
    return mate.link


def at_a_late_listen(rig: Rig, patch: pytest.MonkeyPatch) -> Link:
    mate: Mate = rig.admit()
    rig.relay.roles._delayed.add(mate.link)
    with pytest.MonkeyPatch.context() as inner:
        inner.setattr(Registry, "listen", bug)
        rig.advance(2.5)
    return mate.link


@pytest.mark.parametrize(
    "break_something",
    [
        in_the_lobby,
        in_the_handshake,
        after_the_handshake,
        in_the_message,
        in_the_registry,
        in_a_tunnel,
        at_the_join,
        in_the_channel,
        at_a_deadline,
        at_a_late_listen,
    ],
)
def test_a_bug_ends_one_connection_and_is_told(
    rig: Rig, canary: Callable[[], None], break_something: Break
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        link = break_something(rig, patch)
        rig.reason_of(link)
    assert_told(rig, link)
    canary()


def test_memory_that_runs_out_ends_one_connection_and_is_no_bug(rig: Rig, canary: Callable[[], None]) -> None:
    mate = rig.admit()
    with pytest.MonkeyPatch.context() as patch:

        def no_memory(*_: object) -> None:
            raise MemoryError

        patch.setattr(rig.relay.roles.newcomers, "process", no_memory)
        mate.send(b"anything")
        assert rig.reason_of(mate.link) is CloseReason.NO_MEMORY
        assert not rig.relay.bugs
    canary()
