"""Every bound that an operator may want to move, in one place.

What the protocol itself fixes is in constants.py.
"""

from __future__ import annotations

from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB

OUTPUT_HIGH_WATER = 512 * KIB  # bytes queued for a peer at which its partner is no longer read
OUTPUT_LOW_WATER = 128 * KIB  # bytes queued at which its partner is read again
EARLY_DATA_SIZE = 64 * KIB  # bytes kept of what a waiting connect sends before it is accepted
FREE_BUFFER_SIZE = 4 * KIB  # bytes that each connection may buffer whatever the others do
LINGER_TIMEOUT = 5.0  # seconds for a peer to close its side, after ours is closed and it has got everything
ACCEPT_PAUSE = 0.25  # seconds without accepting after the system ran out of something
DESCRIPTORS_KEPT = 24  # for files, the selector and the log, beside the connections
LISTENER_CHANGES_IN_WINDOW = 6  # listens for one key that take over at once ...
LISTENER_CHANGES_WINDOW = 60.0  # ... within these seconds; further ones wait
LISTENER_CHANGE_DELAY = 2.0  # seconds that a listen waits while its key changes hands too often


class Limits(NamedTuple):
    """What one relay gives to all, to one address and to one key.

    Args:
        connections: in all.
        connections_per_address: for each IPv4 address or IPv6 /64.
        connections_per_key: proven connections for each key.
        unproven: connections that have not finished the handshake, in all.
        waiting_per_key: connects of one key that wait to be accepted.
        waiting_per_listener: connects that wait for one listener.
        tunnels_per_key: tunnel ends of one key.
        buffers: bytes that all connections together may buffer over FREE_BUFFER_SIZE each.
        stall: seconds that a peer may leave what is queued for it unread.
        accepts_per_second: new connections taken from the system each second.
        handshake_threads: handshakes that are computed at the same time.
    """

    connections: int = 8192
    connections_per_address: int = 6000
    connections_per_key: int = 2500
    unproven: int = 4096
    waiting_per_key: int = 256
    waiting_per_listener: int = 4096
    tunnels_per_key: int = 2048
    buffers: int = 12 * MIB
    stall: float = 120.0
    accepts_per_second: int = 5000
    handshake_threads: int = 4


def connections_for(descriptors: int) -> int:
    """Return how many connections fit a limit of `descriptors`: 80 %, and some are kept."""
    return max(4, min(descriptors * 4 // 5, descriptors - DESCRIPTORS_KEPT))
