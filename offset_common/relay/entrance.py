"""The way into the relay: sockets are accepted, and become connections in their handshake, or are refused.

acceptor.py --> proxy_protocol.py, only for load balancers --> Entrance.accept --> AwaitingHandshake
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Iterable
from typing import Callable, Optional

from offset_common.channel.connection import VERSION_FRAME
from offset_common.networks import NetworkSet
from offset_common.relay.acceptor import Acceptor
from offset_common.relay.addresses import SystemAddress, peer_address, show_address
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.handshake_pool import HandshakePool
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.proxy_protocol import ProxyHeaders
from offset_common.relay.sessions.awaiting_handshake import AwaitingHandshake
from offset_common.relay.totals import Totals

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Entrance:
    """The listening sockets of a relay: turns the sockets that they accept into connections.

    Args:
        env: what all connections share.
        limits: how fast to accept, and which part of an IPv6 address counts as one address.
        admission: makes room for connections, or refuses them.
        totals: counts connections without a PROXY header.
        handshakes: computes handshakes.
        authenticated: called with each connection whose key is proven.
        sockets: bound and listening sockets.
        balancers: the networks of load balancers that send PROXY headers.
    """

    def __init__(
        self,
        env: Environment,
        limits: Limits,
        admission: Admission,
        totals: Totals,
        handshakes: HandshakePool,
        authenticated: Callable[[SocketConnection], None],
        sockets: Iterable[socket.socket],
        balancers: Optional[NetworkSet],
    ) -> None:
        self._env = env
        self._ipv6_prefix = limits.ipv6_prefix
        self._admission = admission
        self._totals = totals
        self._handshakes = handshakes
        self._authenticated = authenticated
        self._headers: Optional[ProxyHeaders] = None
        if balancers:
            refused = self._refuse_header
            self._headers = ProxyHeaders(env.loop, balancers, limits.connections, self.accept, refused)
        accept = self.accept if self._headers is None else self._headers.accept
        rate = limits.accepts_per_second
        self._acceptors = [Acceptor(env.loop, sock, rate, accept, self.free_resources) for sock in sockets]

    @property
    def addresses(self) -> list[str]:
        """The addresses of the listening sockets, as "host:port"."""
        return [show_address(each.sock.getsockname()) for each in self._acceptors]

    def change_rate(self, rate: int) -> None:
        """Change how many connections each socket may accept per second."""
        for acceptor in self._acceptors:
            acceptor.change_rate(rate)

    def close(self) -> None:
        """Stop accepting."""
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._headers is not None:
            self._headers.close()

    def accept(self, sock: socket.socket, system_address: SystemAddress) -> None:
        """Start the connection of an accepted socket, or close the socket."""
        address = peer_address(system_address, self._ipv6_prefix)
        if self._admission.make_room(address) is not None:
            sock.close()
            return
        connection = SocketConnection(self._env, sock, address)
        self._admission.enter(connection)
        protect = self._admission.protect
        session = AwaitingHandshake(connection, self._handshakes, protect, self._authenticated)
        connection.call(connection.start, session)
        connection.write(VERSION_FRAME)  # "as soon as the TCP connection is up, without waiting" (2)

    def free_resources(self, error: OSError) -> bool:
        """Log why no connection can be accepted, and evict one if the system lacks descriptors or memory.

        Returns:
            Whether one was evicted.
        """
        log_event(
            "cannot accept connections",
            logging.WARNING,
            collapse="resources",
            error=error.strerror or str(error),
        )
        return error.errno in _OUT_OF_RESOURCES and self._admission.evict()

    def _refuse_header(self, balancer: SystemAddress, detail: str) -> None:
        address = peer_address(balancer, self._ipv6_prefix)
        self._totals.count_refusal(address, CloseReason.NO_PROXY_HEADER, detail)
