"""An unexpected exception anywhere ends one connection, and is logged and counted."""

from __future__ import annotations

from typing import Callable

import pytest

from offset_common.channel.connection import Connection
from offset_common.channel.forwarder import Forwarder
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.handshake_pool import HandshakeJob
from offset_common.relay.homes import Homes
from offset_common.relay.registry import Registry
from offset_common.relay.session import Session
from offset_common.relay.sessions.awaiting_init import AwaitingInit
from offset_common.relay.sessions.tunnel import Tunnel, Tunnels
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.harness import Harness
from tests.relay.test_handshake import Caller


class OurBugError(Exception):
    """A bug."""


def bug(*_: object, **__: object) -> None:
    """Raise an unexpected exception."""
    raise OurBugError


@pytest.fixture
def check_others(harness: Harness) -> Callable[[], None]:
    """Make a tunnel and a listener; return a check that they and new connections are served."""
    near, far = harness.tunnel()
    listener = harness.listener()

    def check() -> None:
        near.send(b"there")
        assert far.receive() == b"there"
        other = harness.pending(listener)
        assert listener.incoming_key() == other.key
        Caller(harness).authenticate()

    return check


Break = Callable[[Harness, pytest.MonkeyPatch], SocketConnection]


def in_accepting(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    patch.setattr(EventLoop, "register", bug)
    harness.connect_socket().close()
    return harness.ends[-1].connection


def in_the_handshake(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    caller = Caller(harness)
    patch.setattr(Connection, "next_event", bug)
    caller.sock.send(bytes(8))
    return caller.connection


def before_the_handshake_pool(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    caller = Caller(harness)
    patch.setattr(HandshakeJob, "__init__", bug)
    caller.sock.send(bytes(8))
    return caller.connection


def after_the_handshake(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    patch.setattr(Admission, "authenticate", bug)
    return Caller(harness).authenticate().connection


def in_decoding(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    peer = harness.admit()
    patch.setattr(InitConnection, "decode", bug)
    peer.send(b"anything")
    return peer.connection


def in_the_registry(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    peer = harness.admit()
    patch.setattr(Registry, "listen", bug)
    peer.send(InitConnection(InitRole.LISTEN).encode())
    return peer.connection


def in_forwarding(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    near, far = harness.tunnel()
    patch.setattr(Forwarder, "forward", bug)
    near.send(b"anything")
    assert far.wait_for_end() == []
    return near.connection


def in_joining(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    listener = harness.listener()
    near = harness.pending(listener)
    far = harness.admit(listener.identity)
    patch.setattr(Tunnels, "make_tunnel", bug)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    assert near.wait_for_end() == []
    return far.connection


def in_a_claim(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    patch.setattr(Homes, "claim", lambda homes, key: True)
    peer = harness.listener()
    patch.setattr(Registry, "listen", bug)
    harness.relay.rendezvous.finish_claim(peer.key)
    return peer.connection


def in_forwarding_to_another_host(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    rendezvous = harness.relay.rendezvous
    rendezvous.expect_listeners(10.0)
    peer = harness.admit().request(InitRole.CONNECT, bytes(32))
    patch.setattr(Homes, "forward_pending", bug)
    rendezvous.forward_unattended(1)
    return peer.connection


def in_the_channel(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    peer = harness.listener()
    data = peer.encrypt(b"anything")
    patch.setattr(Connection, "receive_frame", bug)
    peer.sock.send(data)
    return peer.connection


def in_a_deadline(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    peer = harness.admit()
    patch.setattr(Session, "on_deadline", bug)
    harness.advance(5.0)
    return peer.connection


def in_a_keepalive(harness: Harness, patch: pytest.MonkeyPatch) -> SocketConnection:
    peer = harness.listener()
    patch.setattr(Connection, "handle_time", bug)
    harness.loop.deadlines.schedule(peer.connection, harness.loop.now - 1.0)
    harness.run_rounds()
    return peer.connection


@pytest.mark.parametrize(
    "break_something",
    [
        in_accepting,
        in_the_handshake,
        before_the_handshake_pool,
        after_the_handshake,
        in_decoding,
        in_the_registry,
        in_forwarding,
        in_joining,
        in_a_claim,
        in_forwarding_to_another_host,
        in_the_channel,
        in_a_deadline,
        in_a_keepalive,
    ],
)
def test_bug_ends_one_connection_and_is_logged(
    harness: Harness, check_others: Callable[[], None], break_something: Break
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        connection = break_something(harness, patch)
        reason = harness.reason_of(connection)
    assert reason is CloseReason.BUG
    assert harness.relay.totals.bugs == 1
    (text,) = [line for line in harness.log.lines if line.startswith("error: bug")]
    assert "Traceback" in text
    assert "OurBugError" in text
    assert "in bug" in text
    check_others()


def test_bug_at_the_end_of_a_tunnel_ends_both_sides(
    harness: Harness, check_others: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = harness.tunnel()
    begin_close = SocketConnection.begin_close

    def fail_for_near(connection: SocketConnection, *arguments: object) -> None:
        begin_close(connection, *arguments) if connection is far.connection else bug()  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(SocketConnection, "begin_close", fail_for_near)
        near.sock.close()
        assert harness.reason_of(near.connection) is CloseReason.BUG
        assert far.wait_for_end() == []
    far.sock.close()
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED
    check_others()


def test_bug_in_a_drain_leaves_no_other_tunnel_open(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, _), (second, _) = harness.tunnel(), harness.tunnel()
    finish = Tunnel.finish

    def fail_for_first(session: Tunnel, reason: CloseReason) -> None:
        bug() if session.connection is first.connection else finish(session, reason)

    monkeypatch.setattr(Tunnel, "finish", fail_for_first)
    harness.relay.stop(0.0)
    assert harness.reason_of(first.connection) is CloseReason.BUG
    assert second.wait_for_end() == []


def test_memory_error_closes_one_connection_and_is_not_a_bug(
    harness: Harness, check_others: Callable[[], None]
) -> None:
    peer = harness.admit()

    def no_memory(*_: object) -> None:
        raise MemoryError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AwaitingInit, "on_message", no_memory)
        peer.send(b"anything")
        assert harness.reason_of(peer.connection) is CloseReason.NO_MEMORY
    assert harness.relay.totals.bugs == 0
    check_others()
