"""The life of a connection: the table, and that real connections live by it."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Optional

import pytest

from offset_common.errors import LocalProtocolError
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession, SocketConnection
from offset_common.relay.lifecycle import Event, State, deadline_of, diagram, next_state
from offset_common.wire.messages import InitRole
from tests.relay.harness import IN_TIME, LATE, Harness, running
from tests.relay.test_handshake import Caller

# What docs/protocol.md allows, written down a second time: state, event, next state.
ALLOWED = """
    HANDSHAKE        AUTHENTICATE  AWAITING_INIT
    HANDSHAKE        CLOSE         CLOSED
    AWAITING_INIT    LISTEN        LISTENER
    AWAITING_INIT    CONNECT       PENDING_CONNECT
    AWAITING_INIT    ACCEPT        TUNNEL
    AWAITING_INIT    CLOSE         CLOSED
    LISTENER         CLOSE         CLOSED
    PENDING_CONNECT  ACCEPTED      TUNNEL
    PENDING_CONNECT  CLOSE         CLOSED
    TUNNEL           MOVE          TUNNEL
    TUNNEL           FINISH        FLUSHING
    TUNNEL           CLOSE         CLOSED
    FLUSHING         OUTPUT_SENT   LINGERING
    FLUSHING         CLOSE         CLOSED
    LINGERING        CLOSE         CLOSED
"""
AFTER = {
    (State[state], Event[event]): State[after]
    for state, event, after in (line.split() for line in ALLOWED.split("\n") if line.strip())
}
PAIRS = list(itertools.product(State, Event))
ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.mark.parametrize(("state", "event"), PAIRS, ids=lambda each: each.name)
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    if (state, event) in AFTER:
        assert next_state(state, event) is AFTER[state, event]
    else:
        with pytest.raises(LocalProtocolError, match=event.name):
            next_state(state, event)


@pytest.mark.parametrize(
    ("state", "seconds"),
    [
        (State.HANDSHAKE, 8.0),
        (State.AWAITING_INIT, 4.0),
        (State.LISTENER, None),
        (State.PENDING_CONNECT, 32.0),
        (State.TUNNEL, None),
        (State.FLUSHING, 32.0),
        (State.LINGERING, 5.0),
        (State.CLOSED, None),
    ],
    ids=lambda each: getattr(each, "name", str(each)),
)
def test_every_deadline(state: State, seconds: Optional[float]) -> None:
    deadline = deadline_of(state)
    assert (None if deadline is None else deadline.seconds) == seconds


def test_architecture_shows_the_diagram() -> None:
    assert f"```mermaid\n{diagram()}\n```" in ARCHITECTURE.read_text("utf-8")


def test_diagram_has_one_arrow_for_each_pair() -> None:
    arrows = [line.split(": ") for line in diagram().splitlines() if "-->" in line and "[*]" not in line]
    drawn = {(State[path.split()[0]], Event[event]): State[path.split()[2]] for path, event in arrows}
    assert drawn == AFTER
    assert len(arrows) == len(AFTER)


def test_session_of_another_state_is_a_bug(harness: Harness) -> None:
    peer = harness.listener()
    with pytest.raises(LocalProtocolError, match="FINISH"):
        peer.connection.session.connection.change_session(Event.FINISH, peer.connection.session)
    assert peer.state is State.LISTENER


Journeys = dict[SocketConnection, list[State]]


@pytest.fixture
def journeys(monkeypatch: pytest.MonkeyPatch) -> Journeys:
    """Record the states that every connection goes through."""
    recorded: Journeys = {}
    start, change, close = SocketConnection.start, SocketConnection.change_session, SocketConnection.close

    def record_start(connection: SocketConnection, session: ConnectionSession) -> None:
        recorded[connection] = [session.state]
        start(connection, session)

    def record_change(connection: SocketConnection, event: Event, session: ConnectionSession) -> None:
        before = connection.session.state
        change(connection, event, session)
        assert AFTER[before, event] is session.state
        recorded[connection].append(session.state)

    def record_close(connection: SocketConnection, reason: CloseReason, detail: str = "") -> None:
        if not connection.closed:
            recorded[connection].append(AFTER[connection.session.state, Event.CLOSE])
        close(connection, reason, detail)

    monkeypatch.setattr(SocketConnection, "start", record_start)
    monkeypatch.setattr(SocketConnection, "change_session", record_change)
    monkeypatch.setattr(SocketConnection, "close", record_close)
    return recorded


def names(states: list[State]) -> str:
    return " ".join(state.name for state in states)


def test_states_of_a_listener_after_a_real_handshake(harness: Harness, journeys: Journeys) -> None:
    caller = Caller(harness).authenticate()
    caller.request(InitRole.LISTEN)
    harness.run_until(lambda: len(harness.relay.rendezvous.registry) == 1)
    caller.sock.close()
    harness.reason_of(caller.connection)
    assert names(journeys[caller.connection]) == "HANDSHAKE AWAITING_INIT LISTENER CLOSED"


def test_states_of_both_ends_of_a_tunnel(harness: Harness, journeys: Journeys) -> None:
    near, far = harness.tunnel()
    near.sock.close()
    assert far.wait_for_end() == []
    far.sock.close()
    harness.reason_of(far.connection)
    end = "TUNNEL FLUSHING LINGERING CLOSED"
    assert names(journeys[near.connection]) in (
        f"HANDSHAKE AWAITING_INIT PENDING_CONNECT {end}",
        "HANDSHAKE AWAITING_INIT PENDING_CONNECT TUNNEL FLUSHING CLOSED",  # the peer's end was seen first
    )
    assert names(journeys[far.connection]) == f"HANDSHAKE AWAITING_INIT {end}"


def test_states_of_a_rejected_connect(harness: Harness, journeys: Journeys) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    listener.reject(near.key)
    harness.reason_of(near.connection)
    assert names(journeys[near.connection]) == "HANDSHAKE AWAITING_INIT PENDING_CONNECT CLOSED"


def test_states_of_a_peer_that_fails_its_handshake(harness: Harness, journeys: Journeys) -> None:
    sock = harness.connect_socket()
    sock.send(b"GET / HTTP/1.1\r\n\r\n")
    harness.run_until(lambda: len(harness.ends) == 1)
    assert names(journeys[harness.ends[0].connection]) == "HANDSHAKE CLOSED"
    sock.close()


def test_each_connection_has_exactly_one_end(harness: Harness, journeys: Journeys) -> None:
    near, far = harness.tunnel()
    listener = harness.listener()
    harness.pending(listener)
    harness.relay.stop(0.0)
    for peer in (near, far):
        assert peer.wait_for_end() == []
        peer.sock.close()
    harness.run_until(lambda: not len(harness.relay.admission))
    assert all(states.count(State.CLOSED) == 1 for states in journeys.values())
    assert len({end.connection for end in harness.ends}) == len(harness.ends) == len(journeys)


@pytest.mark.parametrize("spoken", ["nothing", "half a version", "half a handshake"])
def test_handshake_deadline(harness: Harness, spoken: str) -> None:
    caller = Caller(harness)
    if spoken == "half a version":
        caller.sock.send(caller.protocol.data_to_send()[:6])
    elif spoken == "half a handshake":
        caller.step()
    caller.wait_until_returned()
    harness.advance(8.0 - IN_TIME)
    assert not harness.ends
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(caller.connection) is CloseReason.HANDSHAKE_TIMEOUT
    caller.sock.close()


def test_init_deadline(harness: Harness) -> None:
    peer = harness.admit()
    harness.advance(4.0 - IN_TIME)
    assert peer.state is State.AWAITING_INIT
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(peer.connection) is CloseReason.INIT_TIMEOUT


def test_pending_connect_deadline_although_it_sends(harness: Harness) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    for _ in range(3):
        harness.advance(8.0)
        near.send(b"hello?")
        listener.reject(b"r" * 32)  # nobody's key: it only shows that the listener is alive
        harness.run_rounds()
        assert near.state is State.PENDING_CONNECT
    harness.advance(8.0 + LATE)
    assert harness.reason_of(near.connection) is CloseReason.NOT_ACCEPTED


def test_tunnel_outlives_the_earlier_deadlines(harness: Harness) -> None:
    near, far = harness.tunnel()
    for _ in range(8):
        harness.advance(10.0)
        near.send(b"there")
        assert far.receive() == b"there"
        far.send(b"back")
        assert near.receive() == b"back"


def test_listener_keepalives_and_idle_deadline() -> None:
    with running() as harness:
        peer = harness.listener()
        sent = peer.connection.sent
        harness.advance(16.0 - IN_TIME)
        assert peer.connection.sent == sent
        harness.advance(IN_TIME + LATE)
        assert peer.connection.sent > sent
        harness.advance(16.0 - LATE - IN_TIME)
        assert peer.state is State.LISTENER
        harness.advance(IN_TIME + LATE)
        assert harness.reason_of(peer.connection) is CloseReason.IDLE
