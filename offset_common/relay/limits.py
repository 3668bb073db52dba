"""The limits that an operator may change, and bounds that several files of the relay use.

The limits that the protocol fixes are in constants.py.
"""

from __future__ import annotations

from typing import NamedTuple

KIB = 1024
MIB = 1024 * KIB

SMALL_READ = 4 * KIB  # bytes that are read from a connection, however little space is free
FREE_SPACE = 2 * SMALL_READ  # bytes that each connection may buffer: such a read, after the start of a frame
LARGE_READ = 72 * KIB  # bytes: a message of a released node has up to 64 KiB of padding
LIGHT_FRAME = 1 * KIB  # bytes; unpacking a larger frame may take milliseconds


class Limits(NamedTuple):
    """The limits of a relay: for all connections, for each address and for each key.

    Args:
        connections: connections in total.
        connections_per_address: connections from each IPv4 address or IPv6 prefix.
        connections_per_key: authenticated connections of each key.
        unauthenticated: connections in total whose peers have not sent all of their handshake.
        pending_per_key: pending connects of each key.
        pending_per_listener: pending connects for each listener.
        tunnels_per_key: tunnel ends and pending connects of each key.
        buffers: bytes that all connections together may buffer, besides FREE_SPACE for each.
        socket_buffer: bytes of memory for each kernel buffer of a socket; 0 leaves the size to the system.
        stall: seconds that a peer may leave its output unread.
        accepts_per_second: connections that each listening socket accepts per second, at most.
        handshake_threads: threads that compute handshakes.
        ipv6_prefix: length in bits of the IPv6 prefixes that count as one address each.
    """

    connections: int = 8192
    connections_per_address: int = 6000
    connections_per_key: int = 2500
    unauthenticated: int = 4096
    pending_per_key: int = 256
    pending_per_listener: int = 4096
    tunnels_per_key: int = 2048
    buffers: int = 12 * MIB
    socket_buffer: int = 512 * KIB
    stall: float = 120.0
    accepts_per_second: int = 5000
    handshake_threads: int = 1
    ipv6_prefix: int = 64
