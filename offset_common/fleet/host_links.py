"""Connections between hosts, up to the proof of the fleet keys.

They use the relay's event loop and buffers, and a handshake pool of their own. A connection opened for a peer
has the peer's address, so its buffers and turns count for that address.
"""

from __future__ import annotations

import logging
import socket
from typing import Callable, Optional

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.fleet.dialing import Dial
from offset_common.fleet.entries import Host
from offset_common.identity import Identity
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.handshake_pool import HandshakePool
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.sessions.awaiting_handshake import AwaitingHandshake
from offset_common.relay.totals import Traffic

Established = Callable[[SocketConnection], None]
"""Called with a connection once both hosts have proven their keys; its socket is not watched yet."""


class HostLinks:
    """All connections to and from other hosts.

    Args:
        env: the environment of the relay's connections.
        identity: the fleet key of this host.
        limits: the relay's limits.

    Raises:
        ServiceError: the system cannot start the threads.
    """

    def __init__(self, env: Environment, identity: Identity, limits: Limits) -> None:
        self._env = env._replace(report_end=self._closed)
        self._identity = identity
        self._limits = limits
        self._pool = HandshakePool(identity, limits.handshake_threads, env.loop.call_soon_threadsafe)
        self._open: dict[SocketConnection, Callable[[str], None]] = {}  # with what to call if they fail
        self._evictable: dict[SocketConnection, None] = {}  # accepted, their keys not proven; oldest first
        self._dialed: dict[SocketConnection, str] = {}  # with the id of the host
        self._ended_traffic: dict[str, Traffic] = {}

    def __len__(self) -> int:
        """Return the number of open connections."""
        return len(self._open)

    def make_room(self) -> bool:
        """Return whether one more connection may be opened; at the limit, evict one of an unproven key."""
        if len(self._open) >= self._limits.connections and self._evictable:
            next(iter(self._evictable)).close(CloseReason.EVICTED)
        return len(self._open) < self._limits.connections

    def traffic(self) -> dict[str, Traffic]:
        """Return the bytes exchanged with each host, by its id, on connections that this host opened."""
        traffic = dict(self._ended_traffic)
        for connection, host in self._dialed.items():
            before = traffic.get(host, Traffic(0, 0))
            traffic[host] = before.plus(connection.received, connection.sent)
        return traffic

    def accept(self, sock: socket.socket, address: PeerAddress, established: Established) -> None:
        """Start a connection from another host."""
        connection = self._enter(sock, address, _ignore)
        self._evictable[connection] = None
        connection.call(self._start, connection, established, None)

    def dial(
        self, host: Host, address: PeerAddress, established: Established, failed: Callable[[str], None]
    ) -> Callable[[], None]:
        """Connect to another host, which must prove the key in the directory.

        Args:
            host: the host.
            address: the address of the peer that the connection is for.
            established: called with the connection once it can be used.
            failed: called with the reason if the connection fails before that; never before this returns.

        Returns:
            A function that gives up, or closes the connection.
        """
        opened: list[SocketConnection] = []

        def connected(sock: socket.socket) -> None:
            protocol = Connection(self._identity, self._env.loop.now, host.key)
            connection = self._enter(sock, address, failed)
            opened.append(connection)
            self._dialed[connection] = host.id
            connection.call(self._start, connection, established, protocol)

        dial = Dial(self._env.loop, host.address, self._limits.socket_buffer, connected, failed)

        def give_up() -> None:
            dial.cancel()
            for connection in opened:
                if not connection.closed:
                    self._open[connection] = _ignore
                    connection.finish(CloseReason.PEER_CLOSED)  # a pool thread may have its socket

        return give_up

    def hand_over(self, connection: SocketConnection) -> socket.socket:
        """Return the socket of a connection, which from now on belongs to a peer."""
        sock = connection.detach_socket()
        connection.close(CloseReason.PEER_CLOSED)
        return sock

    def close(self) -> None:
        """Close all connections and end the threads."""
        self._pool.close()
        for connection in list(self._open):
            connection.close(CloseReason.SHUTDOWN)

    def _enter(
        self, sock: socket.socket, address: PeerAddress, failed: Callable[[str], None]
    ) -> SocketConnection:
        connection = SocketConnection(self._env, sock, address)
        self._open[connection] = failed
        return connection

    def _start(
        self, connection: SocketConnection, established: Established, protocol: Optional[Connection]
    ) -> None:
        """Start the handshake; `protocol` is given if this host opened the connection."""

        def finished(connection: SocketConnection) -> None:
            self._open[connection] = _ignore
            self._evictable.pop(connection, None)
            established(connection)

        connection.start(AwaitingHandshake(connection, self._pool, self._protect, finished, protocol))
        connection.write(VERSION_FRAME if protocol is None else protocol.data_to_send())

    def _protect(self, connection: SocketConnection, in_pool: bool) -> None:
        """Protect `connection` from eviction while the handshake pool has it, or stop protecting it."""
        if in_pool:
            self._evictable.pop(connection, None)
        elif connection not in self._dialed:
            self._evictable[connection] = None

    def _closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        failed = self._open.pop(connection, _ignore)
        self._evictable.pop(connection, None)
        host = self._dialed.pop(connection, None)
        if host is not None:
            before = self._ended_traffic.get(host, Traffic(0, 0))
            self._ended_traffic[host] = before.plus(connection.received, connection.sent)
        if connection.session.state in (State.HANDSHAKE, State.AWAITING_INIT) and reason not in _NORMAL:
            log_event(
                "host connection failed",
                logging.WARNING,
                collapse="HOST_CONNECTION",
                collapse_by=connection.address.prefix,
                address=connection.address.text,
                reason=reason.value,
                detail=detail or None,
            )
        failed(f"{reason.value}: {detail}" if detail else reason.value)


# A host breaks off a connection whose peer has left.
_NORMAL = frozenset({CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST, CloseReason.SHUTDOWN})


def _ignore(reason: str) -> None:
    """Ignore the failure of a connection whose session handles it."""
