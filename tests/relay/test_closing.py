"""The end of a tunnel: pending data is delivered, and no peer can keep a connection open forever."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
import termios

import pytest

from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.deadlines import TICK
from offset_common.relay.event_loop import EACH_IN_ROUND
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import SMALL_READ, Limits
from offset_common.relay.rendezvous import REORDER_TIME
from offset_common.relay.sessions.closing import DISCARDED_IN_TURN
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.harness import IN_TIME, LATE, Harness, TestPeer, running, tcp_pair

STALL = 100.0  # seconds
LINGER = 5.0
IDLE = 32.0


def test_half_closed_peer_gets_pending_output(harness: Harness) -> None:
    near, far = harness.tunnel()
    data = far.encrypt(*[os.urandom(50_000)] * 8)
    received = far.connection.received + len(data)
    far.write(data)
    harness.run_until(lambda: far.connection.received == received)
    assert near.connection.output.size > 0
    near.sock.shutdown(socket.SHUT_WR)
    harness.run_until(lambda: near.state is State.FLUSHING)
    harness.advance(IDLE + LATE)
    assert near.state is State.FLUSHING, "it cannot show that it is alive, but it may be reading"
    assert len(near.wait_for_end()) == 8
    harness.advance(LINGER + LATE)
    assert harness.reason_of(near.connection) is CloseReason.PEER_CLOSED
    assert far.wait_for_end() == []


def test_messages_before_a_fault_are_delivered(harness: Harness) -> None:
    near, far = harness.tunnel()
    near.write(near.encrypt(b"good", b"better") + bytes(7) + b"\x28" + bytes(40))
    assert far.wait_for_end() == [b"good", b"better"]
    assert harness.reason_of(near.connection) is CloseReason.PROTOCOL_ERROR


def ended_tunnel(harness: Harness, size: int) -> tuple[TestPeer, TestPeer]:
    """Return a tunnel whose near end is gone; `size` bytes were sent to the far one."""
    near, far = harness.tunnel()
    near.write(near.encrypt(*[os.urandom(min(size, 50_000))] * max(1, size // 50_000)))
    if size > 300_000:
        harness.run_until(lambda: far.connection.output.size > 0)
    near.sock.close()
    harness.run_until(lambda: far.state in (State.FLUSHING, State.LINGERING))
    return near, far


def test_peer_that_does_not_close_is_closed_after_lingering(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 10)
    assert far.wait_for_end() != []
    harness.advance(LINGER - IN_TIME)
    assert far.state is State.LINGERING
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


@pytest.fixture
def unacknowledged(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Make sent data appear unacknowledged until the list is empty."""
    answers = [True]
    monkeypatch.setattr(
        "offset_common.relay.connection.SocketConnection.count_unacknowledged", lambda _: int(bool(answers))
    )
    return answers


def test_half_closed_peer_that_does_not_read_keeps_its_place(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 100_000)
    far.sock.shutdown(socket.SHUT_WR)
    for _ in range(3):
        harness.advance(LINGER + LATE)
        assert far.state is State.LINGERING, "the system keeps 100 KB for it"
    assert sum(map(len, far.wait_for_end())) == 100_000
    harness.advance(LINGER + LATE)
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_lingering_continues_while_the_peer_reads_slowly() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        _, far = ended_tunnel(harness, 100_000)
        far.sock.shutdown(socket.SHUT_WR)
        for _ in range(2):
            harness.advance(0.6 * STALL)
            assert far.state is State.LINGERING
            far.protocol.receive_data(far.sock.recv(50_100))
            harness.advance(LINGER + LATE)
        harness.advance(0.6 * STALL)
        assert sum(map(len, far.wait_for_end())) == 100_000


def test_half_closed_peer_that_resets_loses_its_place(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket, "socketpair", tcp_pair)
    near, far = harness.tunnel()
    near.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    data = far.encrypt(*[os.urandom(50_000)] * 8)
    received = far.connection.received + len(data)
    far.write(data)
    harness.run_until(lambda: far.connection.received == received)
    near.sock.shutdown(socket.SHUT_WR)
    harness.run_until(lambda: near.state in (State.FLUSHING, State.LINGERING))
    assert near.connection.count_unacknowledged() > SMALL_READ
    near.sock.close()  # it has unread input, so its system resets the connection
    harness.advance(LINGER + LATE)
    assert harness.reason_of(near.connection) is CloseReason.PEER_CLOSED


def test_lingering_is_extended_while_data_is_in_transit(harness: Harness, unacknowledged: list[bool]) -> None:
    _, far = ended_tunnel(harness, 10)
    for _ in range(10):
        harness.advance(LINGER + IN_TIME)
    assert far.state is State.LINGERING
    unacknowledged.clear()
    harness.advance(LINGER + LATE)
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_lingering_ends_at_the_stall_limit(unacknowledged: list[bool]) -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        _, far = ended_tunnel(harness, 10)
        harness.advance(STALL - LINGER)
        assert far.state is State.LINGERING
        harness.advance(LINGER + LATE)
        harness.advance(LINGER + LATE)
        assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_flushing_peer_that_vanished_is_closed_by_silence() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        _, far = ended_tunnel(harness, 400_000)
        assert far.state is State.FLUSHING
        harness.advance(IDLE - IN_TIME)
        assert far.state is State.FLUSHING
        harness.advance(IN_TIME + LATE)
        _, reason, detail = harness.end_of(far.connection)
        assert (reason, detail) == (CloseReason.PARTNER_ENDED, CloseReason.IDLE.value)


def test_flushing_peer_that_sends_is_closed_by_the_stall_limit() -> None:
    with running(Limits(stall=STALL, handshake_threads=1)) as harness:
        _, far = ended_tunnel(harness, 400_000)
        for _ in range(int(STALL / 10) - 1):
            harness.advance(10.0)
            far.send_sign_of_life()
            assert far.state is State.FLUSHING
        harness.advance(10.0 + LATE)
        _, reason, detail = harness.end_of(far.connection)
        assert (reason, detail) == (CloseReason.PARTNER_ENDED, CloseReason.STALLED.value)


def test_flushing_peer_that_reads_slowly_gets_everything(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 600_000)
    for _ in range(2):
        harness.advance(20.0)
        far.protocol.receive_data(far.sock.recv(200_000))
        far.send_sign_of_life()
        assert far.state is State.FLUSHING
    assert sum(map(len, far.wait_for_end())) == 600_000


def test_input_of_an_ended_tunnel_is_dropped(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 10)
    assert far.wait_for_end() != []
    for _ in range(20):
        far.write(os.urandom(50_000))
    assert harness.relay.buffers.used == 0
    far.sock.close()
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_peer_that_keeps_sending_gets_short_turns(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 10)
    sent = far.sock.send(bytes(2 * DISCARDED_IN_TURN))
    assert sent > DISCARDED_IN_TURN
    left = sent
    while left:
        before, left = left, unread_bytes(far.connection.sock)
        assert before - left <= DISCARDED_IN_TURN
        harness.run_rounds(1)


def unread_bytes(sock: socket.socket) -> int:
    """Return how many received bytes of a socket have not been read."""
    return int.from_bytes(fcntl.ioctl(sock, termios.FIONREAD, bytes(4)), sys.byteorder)


def test_acceptor_gone_at_the_join_ends_the_connect(harness: Harness) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    near.send(b"early")
    harness.run_rounds()
    far = harness.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    far.sock.close()
    harness.reason_of(far.connection)
    assert near.wait_for_end() == []
    harness.advance(LINGER + LATE)
    assert near.connection.closed


def test_socket_that_cannot_be_shut_down_is_closed(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = harness.tunnel()

    def fail(connection: object) -> None:
        raise OSError(107, "Transport endpoint is not connected")

    monkeypatch.setattr(SocketConnection, "shut_down_writing", fail)
    near.sock.close()
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


# Stopping the relay.


def test_drain_lets_tunnels_go_on_and_closes_the_rest(harness: Harness) -> None:
    near, far = harness.tunnel()
    listener = harness.listener()
    waiting, unsettled = harness.pending(listener), harness.admit()
    harness.relay.stop(20.0)
    for peer in (listener, waiting, unsettled):
        assert harness.reason_of(peer.connection) in (CloseReason.SHUTDOWN, CloseReason.LISTENER_ENDED)
    near.send(b"still here")
    assert far.receive() == b"still here"
    near.write(near.encrypt(b"last words"))
    harness.advance(20.0)
    assert far.wait_for_end() == [b"last words"]
    assert near.wait_for_end() == []
    for peer in (near, far):
        peer.sock.close()
    reasons = {harness.reason_of(peer.connection) for peer in (near, far)}
    assert reasons == {CloseReason.SHUTDOWN, CloseReason.PARTNER_ENDED}
    harness.run_until(lambda: harness.loop._stopped)


def test_drain_does_not_list_all_connections_in_each_round(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.tunnel()
    harness.relay.retire(3600.0)
    with monkeypatch.context() as patch:
        patch.setattr(Admission, "all", None)  # with thousands of connections it would take a long time
        harness.run_rounds()
        harness.advance(60.0)
    assert not harness.loop._stopped


def test_drain_closes_a_few_connections_in_each_round(harness: Harness) -> None:
    harness.tunnel()
    idle = [harness.admit() for _ in range(2 * EACH_IN_ROUND)]
    harness.relay.stop(3600.0)
    open_ = len(idle)
    while open_:
        harness.loop.run_once()
        before, open_ = open_, sum(not peer.connection.closed for peer in idle)
        assert 0 < before - open_ <= EACH_IN_ROUND


def test_drain_leaves_tunnels_that_another_host_opens(harness: Harness) -> None:
    listener = harness.listener()
    for _ in range(EACH_IN_ROUND):
        harness.admit()
    pending, acceptor = harness.pending(listener), harness.admit(listener.identity)
    harness.relay.stop(3600.0)
    # As at a host that forwards a connect, when the home of the listener answers.
    session = pending.connection.session
    assert isinstance(session, PendingConnect)
    harness.relay.rendezvous.registry.take([session])
    harness.relay.uncounted_tunnels.make_tunnel(session, acceptor.connection)
    harness.run_until(lambda: not harness.loop._gradual_tasks)
    pending.send(b"still here")
    assert acceptor.receive() == b"still here"


def test_retired_relay_leaves_only_listeners_to_another_process(harness: Harness) -> None:
    listener, arriving = harness.listener(), harness.admit()
    near, far = harness.tunnel()
    waiting = harness.pending(listener)
    harness.relay.retire(3600.0)
    for peer in (listener, waiting):
        peer.wait_for_end()
    assert harness.reason_of(listener.connection) is CloseReason.SHUTDOWN
    arriving.request(InitRole.CONNECT, bytes(32))
    harness.run_until(lambda: arriving.state is State.PENDING_CONNECT)
    harness.advance(REORDER_TIME + TICK)
    assert harness.reason_of(arriving.connection) is CloseReason.NO_LISTENER
    near.send(b"still here")
    assert far.receive() == b"still here"


def test_retired_relay_refuses_new_listeners(harness: Harness) -> None:
    peer = harness.admit()
    harness.relay.retire(3600.0)
    harness.run_until(lambda: not harness.loop._gradual_tasks)  # it has closed all listeners
    peer.request(InitRole.LISTEN)
    assert harness.reason_of(peer.connection) is CloseReason.SHUTDOWN


def test_retired_relay_can_still_be_stopped(harness: Harness) -> None:
    near, far = harness.tunnel()
    harness.relay.retire(3600.0)
    harness.relay.stop(20.0)
    near.send(b"still here")
    assert far.receive() == b"still here"
    harness.advance(20.0)
    assert near.wait_for_end() == []
    harness.relay.stop(20.0)
    assert harness.loop._stopped


def test_drain_does_not_wait_for_peers_that_do_not_read(harness: Harness) -> None:
    _, far = ended_tunnel(harness, 400_000)
    harness.relay.stop(20.0)
    harness.advance(20.0)
    assert not harness.loop._stopped
    harness.advance(2.5)
    assert harness.loop._stopped
    assert far.state is State.FLUSHING


def test_state_line_counts_everything(harness: Harness) -> None:
    near, _ = harness.tunnel()
    harness.pending(harness.listener())
    harness.admit()
    harness.relay.show_state()
    (line,) = [line for line in harness.log.lines if line.startswith("relay state")]
    for field in ("connections=6", "awaiting_init=1", "listeners=2", "pending_connects=1", "tunnels=2"):
        assert f" {field} " in line
    assert "registry_entries=5" in line
    near.sock.close()
