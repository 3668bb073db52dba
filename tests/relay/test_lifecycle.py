"""The life of a connection: its table, and the deadlines of real connections."""

from __future__ import annotations

from pathlib import Path

import pytest

from offset_common.constants import INIT_TIMEOUT
from offset_common.errors import LocalProtocolError
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.lifecycle import DEADLINES, TRANSITIONS, Event, State
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.harness import IN_TIME, LATE, Harness
from tests.relay.test_handshake import Caller

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


def diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> HANDSHAKE: accepted"]
    for state, events in TRANSITIONS.items():
        lines += [f"    {state.name} --> {after.name}: {event.name}" for event, after in events.items()]
    for state, deadline in DEADLINES.items():
        lines.append(f"    {state.name}: {state.name} (at most {deadline.seconds:g} s)")
    lines.append("    CLOSED --> [*]")
    return "\n".join(lines)


def test_architecture_shows_the_diagram() -> None:
    assert f"```mermaid\n{diagram()}\n```" in ARCHITECTURE.read_text("utf-8")


def test_session_of_another_state_is_a_bug(harness: Harness) -> None:
    peer = harness.listener()
    with pytest.raises(LocalProtocolError, match="FINISH"):
        peer.connection.session.connection.change_session(Event.FINISH, peer.connection.session)
    assert peer.state is State.LISTENER


@pytest.mark.parametrize("spoken", ["nothing", "half a version", "half a handshake"])
def test_handshake_ends_at_its_deadline(harness: Harness, spoken: str) -> None:
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


def test_wait_for_the_init_ends_at_its_deadline(harness: Harness) -> None:
    peer = harness.admit()
    harness.advance(4.0 - IN_TIME)
    assert peer.state is State.AWAITING_INIT
    harness.advance(IN_TIME + LATE)
    assert harness.reason_of(peer.connection) is CloseReason.INIT_TIMEOUT


def test_init_that_waits_for_its_turn_is_in_time(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = harness.admit()
    harness.run_rounds()
    peer.send(InitConnection(InitRole.LISTEN).encode())
    with monkeypatch.context() as overload:
        overload.setattr(EventLoop, "_run_turns", lambda *_: None)
        overload.setattr(harness, "overloaded", True)
        harness.advance(INIT_TIMEOUT + LATE)
    harness.run_until(lambda: peer.state is State.LISTENER)


def test_pending_connect_that_sends_still_ends_in_time(harness: Harness) -> None:
    listener = harness.listener()
    near = harness.pending(listener)
    for _ in range(3):
        harness.advance(8.0)
        near.send(b"hello?")
        listener.reject(b"r" * 32)  # an unknown key: nothing happens, but the listener stays open
        harness.run_rounds()
        assert near.state is State.PENDING_CONNECT
    harness.advance(8.0 + LATE)
    assert harness.reason_of(near.connection) is CloseReason.NOT_ACCEPTED


def test_listener_gets_keepalives_until_its_idle_deadline(harness: Harness) -> None:
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
