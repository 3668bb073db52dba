"""A connection whose peer has not proven its key yet.

While the peer is silent, the connection costs an entry in the selector and a deadline. Once a whole frame
has arrived, the handshake pool borrows its socket.

Source: section 4 of docs/protocol.md.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional

from offset_common.channel.connection import Connection
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession, SocketConnection
from offset_common.relay.handshake_pool import READ_SIZE, HandshakeJob, HandshakePool
from offset_common.relay.lifecycle import State


class AwaitingHandshake(ConnectionSession):
    """The state of a handshake between its jobs in the pool.

    Args:
        connection: the connection.
        pool: computes handshakes.
        protect: called with the connection and whether the pool has it, which protects it from eviction.
        authenticated: called with the connection once its key is proven.
        protocol: the protocol state if this side sent first, otherwise None.
    """

    __slots__ = ("_authenticated", "_finish_reason", "_lent", "_pool", "_protect", "_protocol")

    state = State.HANDSHAKE
    settled = False

    def __init__(
        self,
        connection: SocketConnection,
        pool: HandshakePool,
        protect: Callable[[SocketConnection, bool], None],
        authenticated: Callable[[SocketConnection], None],
        protocol: Optional[Connection] = None,
    ) -> None:
        super().__init__(connection)
        self._pool = pool
        self._protect = protect
        self._authenticated = authenticated
        self._protocol = protocol
        self._lent = False  # a thread of the pool has the socket
        self._finish_reason: Optional[CloseReason] = None  # for closing once the socket is back

    def on_readable(self) -> None:
        """Read, and lend the socket to the handshake pool once a whole frame has arrived."""
        connection = self.connection
        data = connection.read(READ_SIZE)
        if data is None:
            connection.close(CloseReason.PEER_CLOSED)
            return
        if self._protocol is None:
            self._protocol = self._pool.new_protocol(connection.loop.now)
        self._protocol.receive_data(data)
        if not self._protocol.needs_data():
            prefix = connection.address.prefix
            done = partial(connection.call, self._job_done)
            self._pool.submit(connection.lend_socket(), self._protocol, prefix, done)
            self._lent = True
            self._protect(connection, True)

    def finish(self, reason: CloseReason) -> None:
        """Close the connection; if a pool thread has its socket, as soon as the socket is back."""
        if self._lent:
            self._finish_reason = reason
        else:
            super().finish(reason)

    def _job_done(self, job: HandshakeJob) -> None:
        connection = self.connection
        connection.add_traffic(job.received, job.sent)
        if connection.closed:
            return
        self._lent = False
        self._protect(connection, False)
        if self._finish_reason is not None:
            connection.close(self._finish_reason)
        elif job.error is not None:
            connection.fail(job.error)
        elif job.protocol.established:
            connection.adopt(job.protocol, job.protocol.take_received())
            self._authenticated(connection)
        else:
            connection.begin_reading()
