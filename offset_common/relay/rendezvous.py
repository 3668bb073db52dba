"""Where connections meet: gives them their roles, and carries out what the registry decides.

Requests come up from the sessions; the answers go down as new sessions, announcements and closed connections.

In a fleet (homes.py), a new listener *claims* its key before connects find it: its peer may accept them at
another host, which must then find it. A connect or accept that matches nothing here is *forwarded* to the
host where its listener is.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Optional, Protocol

from offset_common.identity import short_key
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.homes import Homes
from offset_common.relay.lifecycle import Event
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.policy import Policy
from offset_common.relay.registry import Connect, Registry
from offset_common.relay.sessions.awaiting_init import AwaitingInit
from offset_common.relay.sessions.listener import Listener
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import InitRole

REORDER_TIME = 0.1
"""Seconds within which peers may get their roles in another order than the one in which they connected.

Handshakes are computed at the same time, so a connect may come before the listener that its peer has just
learned of, and a listener before an older one of its key.
"""


class TunnelMaker(Protocol):
    """Makes tunnels, in this process or in another one."""

    def make_tunnel(self, pending: PendingConnect, acceptor: SocketConnection) -> None:
        """Forward between a pending connect and its acceptor, early data first."""


class Rendezvous:
    """All listeners, pending connects and tunnel ends of a relay.

    Args:
        loop: the event loop.
        limits: how much one key may hold.
        tunnels: makes tunnels.
        admission: may refuse a peer, and never evicts one with a role.
        policy: may refuse a role.
        homes: knows the keys that listen at other hosts.
    """

    def __init__(
        self,
        loop: EventLoop,
        limits: Limits,
        tunnels: TunnelMaker,
        admission: Admission,
        policy: Policy,
        homes: Homes,
    ) -> None:
        self.registry: Registry[Listener, PendingConnect, SocketConnection] = Registry(limits)
        self.authenticated = 0  # peers that proved their keys here, since startup
        self.joined = 0  # tunnels, since startup
        self.homes = homes
        self._loop = loop
        self._tunnels = tunnels
        self._admission = admission
        self._policy = policy
        self._listeners_return_by = -math.inf  # seconds: connects wait for absent listeners until then
        self._refused: Sequence[InitRole] = ()  # roles that are now for another process, or for none
        self._claiming: dict[bytes, Listener] = {}  # no connect can find them yet

    def await_init(self, connection: SocketConnection) -> None:
        """Wait for the InitConnection of a peer that has just proven its key."""
        self.authenticated += 1
        if self._admission.authenticate(connection):
            connection.change_session(Event.AUTHENTICATE, AwaitingInit(connection, self._take_role))
            connection.begin_reading()

    def expect_listeners(self, seconds: float) -> None:
        """Let connects wait for absent listeners for that long: after an upgrade, listeners return soon."""
        self._listeners_return_by = self._loop.now + seconds

    def refuse(self, roles: Sequence[InitRole]) -> None:
        """Refuse these roles: the relay is draining."""
        self._refused = roles
        self._listeners_return_by = -math.inf

    def forget(self, connection: SocketConnection) -> None:
        """Forget a closed connection."""
        session = connection.session
        if isinstance(session, Listener):
            self._remove_listener(session)
        elif isinstance(session, PendingConnect):
            self._remove_connect(session)
        self.registry.remove_tunnel_end(connection)

    # Roles.

    def _take_role(
        self, connection: SocketConnection, role: InitRole, other: bytes, age: Optional[float] = None
    ) -> None:
        """Give `connection` the role that its peer asks for, unless it is refused.

        `age` is the time in seconds since the peer asked another host, or None if it asked this one.
        """
        reason = self._policy.refuse_role(connection, role, other)
        if role in self._refused:
            reason = CloseReason.SHUTDOWN
        if reason is not None:
            connection.close(reason)
            return
        self._admission.settle(connection)
        if role is InitRole.LISTEN:
            self._listen(connection)
            return
        if age is None and self._forward_to_home(connection, role, other):
            return
        if role is InitRole.CONNECT:
            meter = self._policy.meter(connection, other)
            self._wait(PendingConnect(connection, age=age or 0.0, meter=meter), other, Event.CONNECT)
        else:
            self._join(connection, other)

    def _forward_to_home(self, connection: SocketConnection, role: InitRole, other: bytes) -> bool:
        """Forward a connect or accept that nothing here matches, if there is another host."""
        if role is InitRole.CONNECT:
            matched = self.registry.listener_of(other) is not None
        else:
            matched = self.registry.oldest_connect(other, connection.key) is not None
        return not matched and self.homes.forward(connection, role, other)

    def _listen(self, connection: SocketConnection) -> None:
        """Make `connection` the listener of its key: the newest one wins."""
        listener = Listener(connection, self._reject, self.registry.has_pending)
        connection.change_session(Event.LISTEN, listener)
        key = connection.key
        other = self._claiming.get(key) or self.registry.listener_of(key)
        if other is not None and other.is_newer_than(listener, REORDER_TIME):
            connection.close(CloseReason.REPLACED)
            return
        must_wait = self.homes.claim(key)
        older = self._claiming.pop(key, None)
        if older is not None:
            older.connection.close(CloseReason.REPLACED)
        if must_wait and self.registry.listener_of(key) is None:
            self._claiming[key] = listener
        else:  # there is no other host, or it finds the key here already
            self._register(listener)

    def _register(self, listener: Listener) -> None:
        replaced, pending = self.registry.listen(listener, listener.connection.key)
        if replaced is not None:
            replaced.connection.close(CloseReason.REPLACED)
        for each in pending:
            each.listener_came()
        # The older listener may already have been dead when these connects were announced to it.
        listener.announce(pending)

    def _wait(self, pending: PendingConnect, target: bytes, event: Event) -> None:
        """Make a connect wait for the listener of `target`."""
        connection = pending.connection
        # A connect waits PENDING_CONNECT_TIMEOUT in total, at whichever hosts.
        connection.change_session(event, pending, self._loop.now - pending.since)
        connect = Connect(connection.key, target, connection.address.prefix)
        decision = self.registry.connect(pending, connect)
        if isinstance(decision, CloseReason):
            connection.close(decision)
            return
        listener, evicted = decision
        if evicted is not None:
            evicted.connection.close(CloseReason.LIMIT_PENDING)
        if listener is not None:
            listener.announce([pending])
        else:
            pending.await_listener(max(pending.since + REORDER_TIME, self._listeners_return_by))

    def _join(self, connection: SocketConnection, source: bytes) -> None:
        """Join `connection` with the oldest pending connect from `source` to its key."""
        pending = self.registry.accept(connection.key, source)
        if isinstance(pending, CloseReason):
            connection.close(pending)
            return
        self._remove_connect(pending)
        ends = (pending.connection, connection)
        for end in ends:
            self.registry.add_tunnel_end(end, end.key)
        log_event(
            "tunnel opened",
            collapse="TUNNEL_OPENED",
            collapse_by=ends[0].address.prefix,
            connect_key=short_key(ends[0].key),
            accept_key=short_key(ends[1].key),
            connect_address=ends[0].address.text,
            accept_address=ends[1].address.text,
        )
        self.homes.before_join(*ends)
        if any(end.closed for end in ends):  # by `before_join`
            for end in ends:
                end.close(CloseReason.PARTNER_ENDED)
            return
        try:
            self._tunnels.make_tunnel(pending, connection)
        except Exception:
            pending.connection.close(CloseReason.PARTNER_ENDED)  # the caller ends the acceptor
            raise
        self.joined += 1

    def _reject(self, listener: Listener, source: bytes) -> None:
        """Close the oldest connect from `source` that waits for `listener`."""
        pending = self.registry.oldest_connect(source, listener.connection.key)
        if pending is not None:
            pending.connection.close(CloseReason.REJECTED)

    def _remove_listener(self, listener: Listener) -> None:
        """Forget a listener that has ended, and close the connects that wait for it; its tunnels stay."""
        key = listener.connection.key
        newest = self._claiming.get(key) or self.registry.listener_of(key)
        if listener is newest:
            self._claiming.pop(key, None)
            self.homes.release(key)
        self._loop.call_for_each(
            self.registry.remove_listener(listener, key),
            lambda pending: pending.connection.close(CloseReason.LISTENER_ENDED),
        )

    def _remove_connect(self, pending: PendingConnect) -> None:
        """Forget a connect that is accepted or has ended."""
        listener = self.registry.remove_connect(pending)
        if listener is not None:
            listener.withdraw(pending)

    # Other hosts: only offset_common/fleet calls the public methods.

    def add_forwarded(self, connection: SocketConnection, role: InitRole, other: bytes, age: float) -> None:
        """Give a new connection the role that its peer asked another host for.

        Args:
            connection: its peer has proven its key to that host.
            role: to connect or to accept.
            other: the key at the other end.
            age: seconds since the peer asked.
        """
        connection.start(AwaitingInit(connection, self._take_role))
        if self._admission.authenticate(connection):
            self._take_role(connection, role, other, age)

    def take_back(self, forwarded: PendingConnect, target: bytes) -> None:
        """Let a connect wait here instead of forwarding it: its target listens here, or nowhere."""
        early = forwarded.take_early_data()
        age = self._loop.now - forwarded.since
        meter = self._policy.meter(forwarded.connection, target)
        pending = PendingConnect(forwarded.connection, early, age, meter)
        self._wait(pending, target, Event.FORWARD)

    def lose(self, key: bytes) -> None:
        """Close the listener of `key`, which now listens at another host; forward its pending connects."""
        claiming = self._claiming.pop(key, None)
        if claiming is not None:
            claiming.connection.close(CloseReason.REPLACED)
        listener = self.registry.listener_of(key)
        if listener is None:
            return
        # The registry forgets the listener first: otherwise closing it would close its pending connects.
        waiting = self.registry.take(self.registry.pending_for(key))
        self.registry.remove_listener(listener, key)
        self._loop.call_for_each(waiting, self._forward)
        listener.connection.close(CloseReason.REPLACED)

    def forward_unattended(self, most: int) -> bool:
        """Forward connects whose listeners are expected here: these may now listen at another host.

        Args:
            most: how many to forward; addresses take turns, and those that return without success go last.

        Returns:
            Whether there are more.
        """
        unattended = self.registry.unattended()
        self._loop.call_for_each(self.registry.take(unattended[:most]), self._forward)
        return len(unattended) > most

    def finish_claim(self, key: bytes) -> None:
        """Register the new listener of `key`, if there is one: its claim has been answered."""
        listener = self._claiming.pop(key, None)
        if listener is not None:
            listener.connection.call(self._register, listener)

    def finish_claims(self) -> None:
        """Register all new listeners: the directory cannot be reached."""
        self._loop.call_for_each(list(self._claiming), self.finish_claim)

    def _forward(self, waiting: tuple[PendingConnect, Connect]) -> None:
        """Forward a connect that has waited here."""
        pending, connect = waiting
        if not pending.connection.closed:
            pending.connection.call(self.homes.forward_pending, pending, connect.target)
