"""Listeners and pending connects over the real loop: announcements, takeover, reject, early data."""

from __future__ import annotations

import os
from typing import Any

import pytest

from offset_common.channel.connection import Connection
from offset_common.constants import PENDING_CONNECT_TIMEOUT
from offset_common.identity import Identity
from offset_common.relay import event_loop
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.deadlines import TICK
from offset_common.relay.event_loop import EACH_IN_ROUND
from offset_common.relay.homes import Homes
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import KIB, Limits
from offset_common.relay.rendezvous import REORDER_TIME
from offset_common.relay.sessions.listener import MOST_QUEUED, Listener
from offset_common.relay.sessions.pending_connect import EARLY_DATA_SIZE, PendingConnect
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitConnection, InitRole, KaMessage, RejectConnection
from tests.relay.harness import IN_TIME, LATE, Harness, TestPeer, running
from tests.support.process import PATIENCE


def test_connect_without_listener_is_closed(harness: Harness) -> None:
    peer = harness.admit().request(InitRole.CONNECT, bytes(32))
    harness.run_until(lambda: peer.state is State.PENDING_CONNECT)
    harness.advance(REORDER_TIME + TICK)
    assert harness.reason_of(peer.connection) is CloseReason.NO_LISTENER
    assert peer.wait_for_end() == []


def test_connect_may_come_just_before_its_listener(harness: Harness) -> None:
    owner = Identity.generate()
    near = harness.admit().request(InitRole.CONNECT, owner.public_key)
    near.send(b"early")
    harness.run_until(lambda: near.state is State.PENDING_CONNECT)
    harness.advance(REORDER_TIME / 2)
    listener = harness.listener(owner)
    assert listener.incoming_key() == near.key
    harness.advance(PENDING_CONNECT_TIMEOUT - REORDER_TIME / 2 - IN_TIME)
    assert near.state is State.PENDING_CONNECT
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(near.connection) is CloseReason.NOT_ACCEPTED


def test_connect_waits_for_an_expected_listener(harness: Harness) -> None:
    harness.relay.rendezvous.expect_listeners(10.0)
    owner = Identity.generate()
    near = harness.admit().request(InitRole.CONNECT, owner.public_key)
    lonely = harness.admit().request(InitRole.CONNECT, bytes(32))
    listener = harness.listener(owner)
    assert listener.incoming_key() == near.key
    harness.advance(10.0 - IN_TIME)
    assert lonely.state is State.PENDING_CONNECT
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(lonely.connection) is CloseReason.NO_LISTENER
    assert near.state is State.PENDING_CONNECT


def test_returned_connect_keeps_its_waiting_time(harness: Harness) -> None:
    rendezvous = harness.relay.rendezvous
    rendezvous.expect_listeners(60.0)
    near = harness.admit().request(InitRole.CONNECT, bytes(32))
    harness.advance(20.0)
    near.send_sign_of_life()
    ((pending, connect),) = rendezvous.registry.take(rendezvous.registry.unattended())
    rendezvous.take_back(pending, connect.target)
    harness.advance(PENDING_CONNECT_TIMEOUT - 20.0 - IN_TIME)
    assert near.state is State.PENDING_CONNECT
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(near.connection) is CloseReason.NO_LISTENER


def test_accept_without_connect_is_closed(harness: Harness) -> None:
    listener = harness.listener()
    peer = harness.admit(listener.identity).request(InitRole.ACCEPT, bytes(32))
    assert harness.reason_of(peer.connection) is CloseReason.NO_PENDING_CONNECT
    assert listener.state is State.LISTENER


class LosingHomes(Homes):
    """A fleet in which the connection to an end of a tunnel is lost while its host learns of the tunnel.

    Args:
        end: 0 for the connecting end, 1 for the accepting one.
    """

    def __init__(self, end: int) -> None:
        self._end = end

    def before_join(self, connect: SocketConnection, accept: SocketConnection) -> None:
        """Lose the end."""
        (connect, accept)[self._end].fail(ConnectionResetError())


@pytest.mark.parametrize("lost", [0, 1])
def test_end_lost_before_the_join_ends_the_other_in_order(harness: Harness, lost: int) -> None:
    harness.relay.rendezvous.homes = LosingHomes(lost)
    ends = harness.tunnel()
    assert harness.reason_of(ends[lost].connection) is CloseReason.CONNECTION_LOST
    assert harness.reason_of(ends[1 - lost].connection) is CloseReason.PARTNER_ENDED
    assert harness.relay.totals.bugs == harness.relay.rendezvous.joined == 0


def test_newest_listener_wins_at_once(harness: Harness) -> None:
    older = harness.listener()
    near = harness.pending(older)
    assert older.incoming_key() == near.key
    newer = harness.listener(older.identity)
    assert harness.reason_of(older.connection) is CloseReason.REPLACED
    assert newer.incoming_key() == near.key
    newer.reject(near.key)
    assert harness.reason_of(near.connection) is CloseReason.REJECTED


@pytest.mark.parametrize(("pause", "wins"), [(0.0, "newer"), (REORDER_TIME + 0.01, "older")])
def test_listener_that_connected_first_may_come_last(harness: Harness, pause: float, wins: str) -> None:
    peers = {"older": harness.admit()}
    harness.advance(0.001)
    peers["newer"] = harness.admit(peers["older"].identity)
    peers["newer"].request(InitRole.LISTEN)
    harness.run_until(lambda: peers["newer"].state is State.LISTENER)
    harness.advance(pause)
    peers["older"].request(InitRole.LISTEN)
    winner = peers.pop(wins)
    (loser,) = peers.values()
    assert harness.reason_of(loser.connection) is CloseReason.REPLACED
    assert winner.state is State.LISTENER
    near = harness.pending(winner)
    assert winner.incoming_key() == near.key


def test_end_of_a_listener_closes_some_connects_in_a_round(harness: Harness) -> None:
    listener = harness.listener()
    pending = [harness.pending(listener).connection for _ in range(3 * EACH_IN_ROUND)]
    listener.connection.close(CloseReason.PEER_CLOSED)
    for rounds in range(1, 4):
        harness.run_rounds(1)
        assert sum(connection.closed for connection in pending) == rounds * EACH_IN_ROUND
    assert {harness.reason_of(connection) for connection in pending} == {CloseReason.LISTENER_ENDED}


def test_waiting_claims_are_finished_some_in_a_round(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Homes, "claim", lambda homes, key: True)
    monkeypatch.setattr(event_loop, "POLL_INTERVAL", PATIENCE)  # every waiting turn runs in its round
    listeners = [harness.listener() for _ in range(2 * EACH_IN_ROUND + 1)]
    rendezvous = harness.relay.rendezvous
    rendezvous.finish_claims()
    for expected in (0, EACH_IN_ROUND, 2 * EACH_IN_ROUND, 2 * EACH_IN_ROUND + 1):
        registered = sum(rendezvous.registry.listener_of(peer.key) is not None for peer in listeners)
        assert registered == expected
        harness.loop.run_once()


def test_listener_whose_claim_is_lost_is_closed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Homes, "claim", lambda homes, key: True)
    listener = harness.listener()
    harness.relay.rendezvous.lose(listener.key)
    assert harness.reason_of(listener.connection) is CloseReason.REPLACED


def test_newest_listener_wins_while_claims_are_finished(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Homes, "claim", lambda homes, key: True)
    older = harness.listener()
    newer = harness.admit(older.identity)
    monkeypatch.undo()  # the directory cannot be reached any more
    harness.relay.rendezvous.finish_claims()
    newer.send(InitConnection(InitRole.LISTEN).encode())
    harness.run_rounds()
    assert newer.state is State.LISTENER
    assert harness.reason_of(older.connection) is CloseReason.REPLACED


def test_connect_finds_that_its_listener_has_vanished(harness: Harness) -> None:
    listener = harness.listener()
    harness.advance(16.0 + LATE)  # a keepalive was sent: from now on it is polled once a second
    listener.sock.close()
    harness.run_rounds()
    assert listener.state is State.LISTENER
    near = harness.pending(listener)
    assert harness.reason_of(near.connection) is CloseReason.LISTENER_ENDED


def test_full_listener_evicts_the_newest_of_most() -> None:
    with running(Limits(pending_per_listener=4, handshake_threads=1)) as harness:
        listener = harness.listener(address="9.9.9.9")
        flood = [harness.pending(listener, "1.1.1.1") for _ in range(4)]
        refused = harness.pending(listener, "1.1.1.1")
        assert harness.reason_of(refused.connection) is CloseReason.LIMIT_PENDING
        honest = harness.pending(listener, "2.2.2.2")
        assert harness.reason_of(flood[-1].connection) is CloseReason.LIMIT_PENDING
        assert honest.state is State.PENDING_CONNECT
        announced = {listener.incoming_key() for _ in range(5)}
        assert honest.key in announced


# Announcements to a listener that does not read.


class SlowListener:
    """A listener that gets many announcements, from connects without sockets."""

    def __init__(self, harness: Harness, peer: TestPeer) -> None:
        self.harness = harness
        self.peer = peer
        self.session = peer.connection.session
        assert isinstance(self.session, Listener)

    def announce(self, count: int, start: int = 0, address: str = "1.1.1.1") -> list[FakePending]:
        """Announce connects of an address; return them."""
        pending = [FakePending(number.to_bytes(32, "big"), address) for number in range(start, start + count)]
        for number, each in enumerate(pending):
            self.session.announce([each])  # type: ignore[attr-defined]
            if number % 200 == 0:
                self.harness.run_rounds(1)
        return pending


class FakePending:
    """The part of a pending connect that an announcement needs."""

    def __init__(self, key: bytes, address: str) -> None:
        self.key = key
        self.connection = self
        self.address = PeerAddress(f"{address}:5000", address)


def test_slow_listener_gets_all_announcements_in_order(harness: Harness) -> None:
    listener = harness.listener()
    announced = SlowListener(harness, listener).announce(12_000)
    output = listener.connection.output.size
    assert MOST_QUEUED < output < MOST_QUEUED + 1000, "about that much is queued"
    keys = [listener.incoming_key() for _ in announced]
    assert keys == [each.key for each in announced]
    assert listener.state is State.LISTENER


def test_addresses_take_turns_in_announcements(harness: Harness) -> None:
    listener = harness.listener()
    slow = SlowListener(harness, listener)
    flood = slow.announce(12_000)
    waiting = len(slow.session._unannounced["1.1.1.1"])  # type: ignore[attr-defined]
    others = slow.announce(2, 12_000, "2.2.2.2") + slow.announce(1, 12_002, "3.3.3.3")
    keys = [listener.incoming_key() for _ in range(len(flood) + len(others))]
    assert [keys.index(each.key) - (len(flood) - waiting) for each in others] == [1, 4, 2]
    assert [key for key in keys if key < others[0].key] == [each.key for each in flood]
    assert not slow.session._unannounced  # type: ignore[attr-defined]


def test_listener_without_space_gets_announcements() -> None:
    with running(Limits(buffers=400 * KIB, handshake_threads=1)) as harness:
        listener = harness.listener(address="1.1.1.1")
        listener.write_until_paused(listener.encrypt(os.urandom(100_000))[:50_000])
        neighbour = harness.relay.buffers.open_account("1.1.1.1")
        neighbour.add(harness.relay.buffers.limit)
        near = harness.pending(listener, "2.2.2.2")
        assert listener.incoming_key() == near.key
        neighbour.add(-neighbour.held)


def test_turn_of_a_listener_handles_one_message(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = harness.listener()
    harness.pending(peer)  # so that the listener is not polled coarsely
    handled: list[int] = []  # messages in each turn
    on_readable, receive_frame = Listener.on_readable, Connection.receive_frame

    def count_turn(session: Listener) -> None:
        handled.append(0)
        on_readable(session)

    def count_message(*arguments: Any) -> object:
        handled[-1] += 1
        return receive_frame(*arguments)

    monkeypatch.setattr(Listener, "on_readable", count_turn)
    monkeypatch.setattr(Connection, "receive_frame", count_message)
    peer.send(*[RejectConnection(bytes(32)).encode()] * 100)
    harness.run_until(lambda: sum(handled) == 100)
    assert max(handled) == 1


def test_connects_that_have_gone_are_not_announced(harness: Harness) -> None:
    listener = harness.listener()
    slow = SlowListener(harness, listener)
    announced = slow.announce(12_000)
    queued = 12_000 - len(slow.session._unannounced["1.1.1.1"])  # type: ignore[attr-defined]
    for each in announced[-5000:]:
        slow.session.withdraw(each)  # type: ignore[attr-defined]
    keys = [listener.incoming_key() for _ in range(7000)]
    assert queued < 7000
    assert keys == [each.key for each in announced[:7000]]
    harness.run_rounds(20)
    assert not listener.has_message()


@pytest.mark.parametrize("how", ["it closes", "it is accepted", "it is rejected"])
def test_connect_that_has_gone_is_withdrawn(harness: Harness, how: str) -> None:
    listener = harness.listener()
    slow = SlowListener(harness, listener)
    slow.announce(12_000)
    near = harness.pending(listener, "2.2.2.2")
    unannounced = slow.session._unannounced  # type: ignore[attr-defined]
    assert "2.2.2.2" in unannounced
    if how == "it closes":
        near.sock.close()
    elif how == "it is accepted":
        harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
    else:
        listener.reject(near.key)
    harness.run_until(lambda: "2.2.2.2" not in unannounced)


# Early data: "what it sends must be kept, in order, for the acceptor".


@pytest.mark.parametrize("wait", [True, False])
@pytest.mark.parametrize("cut", [1, 7, 8, 9, 500, 7_000, 16_384, -1])
def test_early_data_arrives_first_and_in_order(harness: Harness, wait: bool, cut: int) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    early = [b"%d" % n * (n * 20) for n in range(40)]
    data = near.encrypt(*early)
    assert listener.incoming_key() == near.key
    near.write(data[:cut])
    if wait:
        harness.run_rounds(10)
    far = harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
    near.write(data[cut:])
    near.send(b"late")
    assert [far.receive() for _ in range(41)] == [*early, b"late"]


@pytest.mark.parametrize("size", [100, 20_000, 100_000, 300_000])
def test_data_after_an_accept_goes_to_the_connect(harness: Harness, size: int) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    assert listener.incoming_key() == near.key
    half = near.encrypt(b"x" * size)
    near.write(half[: size // 2])
    harness.run_rounds(10)
    far = harness.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode(), b"first", b"y" * 10_000)
    assert near.receive() == b"first"
    assert near.receive() == b"y" * 10_000
    near.write(half[size // 2 :])
    assert far.receive() == b"x" * size


@pytest.mark.parametrize("size", [10_000, 200_000])
def test_pending_connect_is_not_read_beyond_its_space(harness: Harness, size: int) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    messages = [os.urandom(size) for _ in range(4_000_000 // size)]
    data = near.encrypt(*messages)
    sent = near.write_until_paused(data)
    assert sent < len(data)
    assert near.connection.account.held < 2 * EARLY_DATA_SIZE
    assert near.state is State.PENDING_CONNECT
    assert listener.incoming_key() == near.key
    far = harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
    while sent < len(data):
        sent += near.write_until_paused(data[sent:])
        far.has_message()
    assert [far.receive() for _ in messages] == messages


def test_pending_connect_keeps_few_small_messages(harness: Harness) -> None:
    near = harness.pending(harness.listener())
    near.write(near.encrypt(*[b""] * 500))
    harness.run_until(lambda: not near.connection.reading)
    session = near.connection.session
    assert isinstance(session, PendingConnect)
    assert 100 < len(session.take_early_data()) < 150


def early_bomb(peer: TestPeer) -> bytes:
    """Encrypt a small message that unpacks to 60 KiB."""
    user = KaMessage(bytes(60 * KIB)).encode(sparse=True)
    return encode_frame(peer.protocol.secure_channel.sending.encrypt(ChannelMessage(b"", user).encode()))


def test_early_data_that_unpacks_to_more_stays_in_the_pool() -> None:
    with running(Limits(buffers=1024 * KIB, handshake_threads=1)) as harness:
        listener = harness.listener()
        pool = harness.relay.buffers
        peers = [harness.pending(listener, f"1.1.1.{number}") for number in range(30)]
        for peer in peers:
            for _ in range(3):
                peer.write(early_bomb(peer))
            harness.run_rounds(3)
            assert pool.used <= pool.limit
        assert pool.used > pool.limit // 3
        assert not any(peer.connection.closed for peer in peers)


# A protocol error ends only its own connection.


def peer_in_role(harness: Harness, listener: TestPeer, role: str) -> TestPeer:
    """Return a peer whose connection has the role."""
    if role == "tunnel":
        return harness.tunnel()[0]
    if role == "pending_connect":
        return harness.pending(listener)
    return listener if role == "listener" else harness.admit()


@pytest.mark.parametrize("role", ["awaiting_init", "listener", "pending_connect", "tunnel"])
@pytest.mark.parametrize("fault", ["not encrypted", "no message", "no frame", "frame over the limit"])
def test_protocol_error_ends_one_connection(harness: Harness, role: str, fault: str) -> None:
    near, far = harness.tunnel()
    listener = harness.listener()
    peer = peer_in_role(harness, listener, role)
    if fault == "no message":
        seal = peer.protocol.secure_channel.sending.encrypt
        data = encode_frame(seal(b"\xff\xff\xff"))
    else:
        data = {
            "not encrypted": encode_frame(bytes(40)),
            "no frame": encode_frame(b""),
            "frame over the limit": (2**20 + 2**17 + 1).to_bytes(8, "big"),
        }[fault]
    peer.write(data)
    assert harness.reason_of(peer.connection) is CloseReason.PROTOCOL_ERROR
    assert peer.wait_for_end() == []
    near.send(b"still here")
    assert far.receive() == b"still here"


@pytest.mark.parametrize("role", ["awaiting_init", "listener"])
def test_wrong_relay_message_ends_one_connection(harness: Harness, role: str) -> None:
    peer = harness.admit() if role == "awaiting_init" else harness.listener()
    other = harness.listener()
    peer.send(b"\xff" * 20)
    assert harness.reason_of(peer.connection) is CloseReason.PROTOCOL_ERROR
    assert other.state is State.LISTENER


def test_connection_without_a_role_is_scheduled_as_busy(harness: Harness) -> None:
    peer = harness.admit()
    request = peer.encrypt(InitConnection(InitRole.LISTEN).encode())
    peer.write(request[:10])
    harness.run_until(lambda: peer.connection.input.kept == 10)
    assert not peer.connection.light
    peer.write(request[10:])
    harness.run_until(lambda: peer.state is State.LISTENER)
    assert peer.connection.light


def test_connection_with_a_role_is_settled(harness: Harness) -> None:
    harness.tunnel()
    harness.pending(harness.listener())
    assert not harness.relay.admission.evict()
    unsettled = harness.admit()
    assert harness.relay.admission.evict()
    assert harness.reason_of(unsettled.connection) is CloseReason.EVICTED
