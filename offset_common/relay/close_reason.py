"""Why a connection ended: exactly one reason for each."""

from __future__ import annotations

import enum

from offset_common.errors import HandshakeError, PeerError, SilenceError, VersionError
from offset_common.wire.frames import OldPeerError


class CloseReason(enum.Enum):
    """Why a connection ended, in the words of its log line. docs/logs.md has a row for each."""

    PEER_CLOSED = "the peer closed"
    CONNECTION_LOST = "the connection was lost"
    PARTNER_ENDED = "the other end of the tunnel ended"
    PROTOCOL_ERROR = "the peer broke the protocol"
    OLD_PEER = "peer older than 0.1.3"
    NOT_OFFSET = "not an Offset peer or another protocol version"
    HANDSHAKE_FAILED = "the handshake failed"
    HANDSHAKE_TIMEOUT = "no handshake in time"
    INIT_TIMEOUT = "no InitConnection in time"
    IDLE = "nothing received for too long"
    STALLED = "the peer did not read for too long"
    NO_LISTENER = "no listener for that key"
    NO_PENDING_CONNECT = "no connect from that key is pending"
    REJECTED = "rejected by the listener"
    NOT_ACCEPTED = "not accepted in time"
    LISTENER_ENDED = "the listener ended"
    REPLACED = "replaced by a newer listener with the same key"
    EVICTED = "evicted at a limit before it had a role"
    LIMIT_TOTAL = "too many connections in all"
    LIMIT_ADDRESS = "too many connections from that address"
    LIMIT_KEY = "too many connections of that key"
    LIMIT_PENDING = "too many pending connects"
    LIMIT_TUNNELS = "too many tunnels of that key"
    DENIED = "denied by the access file"
    QUOTA = "the monthly quota is used up"
    QUOTA_OF_KEY = "the monthly quota of that key is used up"
    NO_PROXY_HEADER = "no valid PROXY header from a trusted balancer"
    NO_MEMORY = "out of memory"
    WORKER_ENDED = "the worker process ended"
    SHUTDOWN = "the relay is stopping"
    BUG = "an error in the relay"


def reason_of(error: BaseException) -> tuple[CloseReason, str]:
    """Return why a connection ends after an exception, and a detail for the log."""
    if isinstance(error, SilenceError):
        return CloseReason.IDLE, ""
    if isinstance(error, OldPeerError):
        return CloseReason.OLD_PEER, ""
    if isinstance(error, VersionError):
        return CloseReason.NOT_OFFSET, str(error)
    if isinstance(error, HandshakeError):
        return CloseReason.HANDSHAKE_FAILED, str(error)
    if isinstance(error, PeerError):
        return CloseReason.PROTOCOL_ERROR, str(error)
    if isinstance(error, OSError):
        return CloseReason.CONNECTION_LOST, error.strerror or ""
    if isinstance(error, MemoryError):
        return CloseReason.NO_MEMORY, ""
    return CloseReason.BUG, ""
