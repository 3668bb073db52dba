"""The life of a connection as a table: state x event -> state, and the deadline of each state.

A connection starts in HANDSHAKE; one from another host starts in AWAITING_INIT, one from another process in
TUNNEL. `SocketConnection.change_session` and `SocketConnection.close` look up every later change here, so no
other change can happen. tests/relay/test_lifecycle.py tries every pair, and draws the diagram in
docs/architecture.md.

Source: sections 4, 6 and 7 of docs/protocol.md.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from offset_common.constants import (
    HANDSHAKE_TIMEOUT,
    IDLE_TIMEOUT,
    INIT_TIMEOUT,
    PENDING_CONNECT_TIMEOUT,
)
from offset_common.errors import LocalProtocolError
from offset_common.relay.close_reason import CloseReason

LINGER_TIMEOUT = 5.0  # seconds for a peer to close its side, once it has received everything


class State(enum.Enum):
    """The state of a connection; `role` is its name in the log and the status."""

    HANDSHAKE = "handshake"  # the peer's key is not proven yet
    AWAITING_INIT = "awaiting_init"  # its key is proven, its role is not known
    LISTENER = "listener"
    PENDING_CONNECT = "pending_connect"
    TUNNEL = "tunnel"
    FLUSHING = "flushing"  # sends what is queued for the peer, discards what the peer sends
    LINGERING = "lingering"  # our side is closed, the peer's is not
    CLOSED = "closed"

    def __init__(self, name: str) -> None:
        self.role = "closing" if name in ("flushing", "lingering") else name


class Event(enum.Enum):
    """An event that changes the state of a connection."""

    AUTHENTICATE = "the handshake proves the peer's key"
    LISTEN = "InitConnection: listen"
    CONNECT = "InitConnection: connect"
    ACCEPT = "InitConnection: accept"
    FORWARD = "its listener may be at another host, or does not exist"
    ACCEPTED = "the listener accepts"
    MOVE = "a worker process takes the tunnel over"
    FINISH = "the other end of the tunnel, or its peer, ends"
    OUTPUT_SENT = "all output is sent"
    CLOSE = "the peer closes, breaks a rule or exceeds a deadline or limit"


class Deadline(NamedTuple):
    """How long a connection may stay in a state, and why it is closed after that."""

    seconds: float
    reason: CloseReason


TRANSITIONS = {
    State.HANDSHAKE: {Event.AUTHENTICATE: State.AWAITING_INIT, Event.CLOSE: State.CLOSED},
    State.AWAITING_INIT: {
        Event.LISTEN: State.LISTENER,
        Event.CONNECT: State.PENDING_CONNECT,
        Event.FORWARD: State.PENDING_CONNECT,
        Event.ACCEPT: State.TUNNEL,
        Event.CLOSE: State.CLOSED,
    },
    State.LISTENER: {Event.CLOSE: State.CLOSED},
    State.PENDING_CONNECT: {
        Event.FORWARD: State.PENDING_CONNECT,
        Event.ACCEPTED: State.TUNNEL,
        Event.CLOSE: State.CLOSED,
    },
    State.TUNNEL: {Event.MOVE: State.TUNNEL, Event.FINISH: State.FLUSHING, Event.CLOSE: State.CLOSED},
    State.FLUSHING: {Event.OUTPUT_SENT: State.LINGERING, Event.CLOSE: State.CLOSED},
    State.LINGERING: {Event.CLOSE: State.CLOSED},
    State.CLOSED: {},
}

DEADLINES = {
    State.HANDSHAKE: Deadline(HANDSHAKE_TIMEOUT, CloseReason.HANDSHAKE_TIMEOUT),
    State.AWAITING_INIT: Deadline(INIT_TIMEOUT, CloseReason.INIT_TIMEOUT),
    State.PENDING_CONNECT: Deadline(PENDING_CONNECT_TIMEOUT, CloseReason.NOT_ACCEPTED),
    # Extended by every byte that the peer sends, in place of the keepalive layer's timeout.
    State.FLUSHING: Deadline(IDLE_TIMEOUT, CloseReason.IDLE),
    # Extended while the peer's system still acknowledges what was sent.
    State.LINGERING: Deadline(LINGER_TIMEOUT, CloseReason.PEER_CLOSED),
}
"""Listeners and tunnels have no deadline here: the keepalive layer closes silent connections."""


def next_state(state: State, event: Event) -> State:
    """Return the state that follows `state` after `event`.

    Raises:
        LocalProtocolError: the table has no such pair; this is a bug in the relay.
    """
    try:
        return TRANSITIONS[state][event]
    except KeyError:
        raise LocalProtocolError(f"{event.name} is not allowed in {state.name}") from None
