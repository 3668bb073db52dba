"""Why a connection ended: exactly one reason for each."""

from __future__ import annotations

import enum

from offset_common.errors import PeerError, SilenceError


class CloseReason(enum.Enum):
    """The end of a connection, in the words of its log line."""

    PEER_CLOSED = "the peer closed"
    CONNECTION_LOST = "the connection was lost"
    PARTNER_ENDED = "the other end of the tunnel ended"
    PROTOCOL_ERROR = "the peer broke the protocol"
    OLD_PEER = "peer older than 0.1.3"
    NOT_OFFSET = "not an Offset peer, or another protocol version"
    HANDSHAKE_FAILED = "the handshake failed"
    HANDSHAKE_TIMEOUT = "no handshake in time"
    INIT_TIMEOUT = "no InitConnection in time"
    IDLE = "nothing received for too long"
    STALLED = "the peer did not read for too long"
    NO_LISTENER = "nobody listens for that key"
    NO_WAITING_CONNECT = "no such connect waits"
    REJECTED = "the listener rejected it"
    NOT_ACCEPTED = "nobody accepted it in time"
    LISTENER_ENDED = "the listener ended"
    REPLACED = "a newer listener has the same key"
    GAVE_WAY = "gave way to a newer connection at a limit"
    LIMIT_TOTAL = "too many connections in all"
    LIMIT_ADDRESS = "too many connections from that address"
    LIMIT_KEY = "too many connections of that key"
    LIMIT_WAITING = "too many waiting connects"
    LIMIT_TUNNELS = "too many tunnels of that key"
    LIMIT_BUFFERS = "too much is buffered"
    NO_MEMORY = "the system has no memory for it"
    WORKER_ENDED = "the worker process ended"
    SHUTDOWN = "the relay stops"
    BUG = "an error of the relay"


FOLDED = frozenset(
    {
        CloseReason.PROTOCOL_ERROR,
        CloseReason.OLD_PEER,
        CloseReason.NOT_OFFSET,
        CloseReason.HANDSHAKE_FAILED,
        CloseReason.HANDSHAKE_TIMEOUT,
        CloseReason.INIT_TIMEOUT,
        CloseReason.NO_LISTENER,
        CloseReason.NO_WAITING_CONNECT,
        CloseReason.REPLACED,
        CloseReason.GAVE_WAY,
        CloseReason.LIMIT_TOTAL,
        CloseReason.LIMIT_ADDRESS,
        CloseReason.LIMIT_KEY,
        CloseReason.LIMIT_WAITING,
        CloseReason.LIMIT_TUNNELS,
        CloseReason.LIMIT_BUFFERS,
        CloseReason.NO_MEMORY,
    }
)
"""Reasons that a stranger can bring about at will: their lines are folded when they come in numbers."""


def reason_of(error: BaseException) -> tuple[CloseReason, str]:
    """Return why a connection ends for which an exception was raised, and what else there is to say."""
    if isinstance(error, SilenceError):
        return CloseReason.IDLE, ""
    if isinstance(error, PeerError):
        return CloseReason.PROTOCOL_ERROR, str(error)
    if isinstance(error, OSError):
        return CloseReason.CONNECTION_LOST, error.strerror or ""
    if isinstance(error, MemoryError):
        return CloseReason.NO_MEMORY, ""
    return CloseReason.BUG, ""
