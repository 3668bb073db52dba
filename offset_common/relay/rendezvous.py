"""Where connections meet: gives them their roles, and carries out what the registry decides.

Requests come up from the sessions; the answers go down as new sessions, announcements and ends.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Callable, Protocol

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import READ
from offset_common.relay.lifecycle import Event
from offset_common.relay.limits import Limits
from offset_common.relay.policy import Policy
from offset_common.relay.registry import Connect, Registry
from offset_common.relay.sessions.awaiting_init import AwaitingInit
from offset_common.relay.sessions.listener import Listener
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import InitRole


class TunnelMaker(Protocol):
    """Makes tunnels, in this process or in another one."""

    def join(self, pending: PendingConnect, acceptor: SocketConnection) -> None:
        """Forward between a pending connect and its acceptor, early data first."""


class Rendezvous:
    """All listeners, pending connects and tunnel ends of a relay.

    Args:
        limits: how much one key may hold.
        tunnels: makes tunnels.
        settled: called with a connection that gets its role.
        opens: called with the two ends of each tunnel, the connect first, before it is made.
        policy: may refuse a role.
    """

    def __init__(
        self,
        limits: Limits,
        tunnels: TunnelMaker,
        settled: Callable[[SocketConnection], None],
        opens: Callable[[SocketConnection, SocketConnection], None],
        policy: Policy,
    ) -> None:
        self.registry: Registry[Listener, PendingConnect, SocketConnection] = Registry(limits)
        self.joined = 0  # tunnels, since the start
        self._tunnels = tunnels
        self._settled = settled
        self._opens = opens
        self._policy = policy

    def enter(self, connection: SocketConnection) -> None:
        """Take a connection whose peer is authenticated."""
        connection.change_session(
            Event.AUTHENTICATE, AwaitingInit(connection, self._listen, self._connect, self._accept)
        )
        connection.take_socket_back()
        # The InitConnection may have come right behind the handshake.
        connection.env.loop.request_turn(connection, READ)

    def expect_listeners(self, expected: bool) -> None:
        """Let connects wait for listeners that are not there yet, or no more."""
        for pending in self.registry.expect_listeners(expected):
            pending.connection.close(CloseReason.NO_LISTENER)

    def forget(self, connection: SocketConnection) -> None:
        """Forget a connection that ended, whatever it was."""
        self.registry.remove_tunnel_end(connection)

    def _listen(self, connection: SocketConnection) -> None:
        """Make `connection` the listener of its key: the newest one wins."""
        if self._refuse(connection, InitRole.LISTEN):
            return
        self._settled(connection)
        listener = Listener(connection, self._reject, self._listener_ended, self._has_pending)
        connection.change_session(Event.LISTEN, listener)
        replaced, pending = self.registry.listen(listener, connection.key)
        if replaced is not None:
            replaced.connection.close(CloseReason.REPLACED)
        # They were announced to the older listener, perhaps to nobody alive.
        listener.announce(pending)

    def _connect(self, connection: SocketConnection, target: bytes) -> None:
        """Let `connection` wait for the listener of `target`."""
        if self._refuse(connection, InitRole.CONNECT, target):
            return
        self._settled(connection)
        pending = PendingConnect(connection, self._connect_ended)
        connection.change_session(Event.CONNECT, pending)
        connect = Connect(connection.key, target, connection.address.prefix)
        decision = self.registry.connect(pending, connect)
        if isinstance(decision, CloseReason):
            connection.close(decision)
            return
        listener, evicted = decision
        if evicted is not None:
            if listener is not None:
                listener.withdraw(evicted)
            evicted.connection.close(CloseReason.LIMIT_PENDING)
        if listener is not None:
            listener.announce([pending])

    def _accept(self, connection: SocketConnection, source: bytes) -> None:
        """Join `connection` with the oldest pending connect from `source` to its key."""
        if self._refuse(connection, InitRole.ACCEPT, source):
            return
        self._settled(connection)
        pending = self.registry.accept(connection.key, source)
        if isinstance(pending, CloseReason):
            connection.close(pending)
            return
        self._withdraw(pending, connection.key)
        for end in (pending.connection, connection):
            self.registry.add_tunnel_end(end, end.key)
        self._opens(pending.connection, connection)
        try:
            self._tunnels.join(pending, connection)
        except Exception:
            pending.connection.close(CloseReason.PARTNER_ENDED)  # the caller ends the acceptor
            raise
        self.joined += 1

    def _refuse(self, connection: SocketConnection, role: InitRole, other: bytes = b"") -> bool:
        """Close `connection` if the policy refuses it the role; return whether it does."""
        reason = self._policy.refuse_role(connection, role, other)
        if reason is not None:
            connection.close(reason)
        return reason is not None

    def _reject(self, listener: Listener, source: bytes) -> None:
        """Close the oldest connect from `source` that waits for `listener`."""
        key = listener.connection.key
        pending = self.registry.reject(key, source)
        if pending is not None:
            self._withdraw(pending, key)
            pending.connection.close(CloseReason.REJECTED)

    def _has_pending(self, listener: Listener) -> bool:
        """Return whether a connect waits for `listener`."""
        return self.registry.has_pending(listener.connection.key)

    def _listener_ended(self, listener: Listener) -> None:
        """Close the connects that wait for `listener`; its tunnels live on."""
        for pending in self.registry.remove_listener(listener, listener.connection.key):
            pending.connection.close(CloseReason.LISTENER_ENDED)

    def _connect_ended(self, pending: PendingConnect) -> None:
        """Forget `pending`."""
        listener = self.registry.remove_connect(pending)
        if listener is not None:
            listener.withdraw(pending)

    def _withdraw(self, pending: PendingConnect, key: bytes) -> None:
        listener = self.registry.listener_of(key)
        if listener is not None:
            listener.withdraw(pending)
