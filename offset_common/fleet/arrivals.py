"""At the home: other hosts connect, prove that they belong to the fleet, and hand over peers.

handshake with the fleet keys --> is that key in the directory? --> one order
    connect, accept: from now on an ordinary connection with the peer's own key and address
    taken: the listener here is replaced
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Optional, Protocol

from offset_common.errors import DecodeError
from offset_common.fleet.entries import Claim
from offset_common.fleet.events import Found
from offset_common.fleet.host_links import HostLinks
from offset_common.fleet.orders import TAKEN, Answer, Order
from offset_common.identity import encode_key, short_key
from offset_common.relay.addresses import SystemAddress, peer_address
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.lifecycle import Event, State
from offset_common.relay.log import log_event
from offset_common.relay.rendezvous import Rendezvous
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.wire.messages import InitRole


class ForwardedConnection(SocketConnection):
    """A peer that arrived at another host. That host gets one answer: joined, or why not."""

    __slots__ = ("_answered",)

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._answered = False

    def answer_joined(self) -> None:
        """Tell the other host to begin forwarding."""
        self._answered = True
        self.send_message(Answer().encode())

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the connection now; report why to the other host, if it has no answer yet."""
        if not self._answered and not self.closed:
            self._answered = True
            if self.protocol is not None and self.protocol.established:
                self.send_message(Answer(reason, detail).encode())
        super().close(reason, detail)


class AwaitingOrder(MessageSession):
    """A connection from another host, before its order.

    Args:
        connection: the connection.
        ordered: called with the connection and the order.
    """

    __slots__ = ("_order", "_ordered")

    state = State.AWAITING_INIT

    def __init__(
        self, connection: SocketConnection, ordered: Callable[[SocketConnection, Order], None]
    ) -> None:
        super().__init__(connection)
        self._ordered = ordered
        self._order: Optional[Order] = None

    def on_message(self, message: bytes) -> None:
        """Handle the order; there is only one."""
        if self._order is not None:
            raise DecodeError("a second order before the answer")
        self._order = Order.decode(message)
        self._ordered(self.connection, self._order)


class HomeRelay(Protocol):
    """The parts of the relay that a forwarded peer goes through."""

    env: Environment
    admission: Admission
    rendezvous: Rendezvous


class Arrivals:
    """Accepts the connections of other hosts.

    Args:
        relay: serves the peers that they hand over.
        links: owns the connections until then.
        find_host: asks whether the host with an id is alive, and calls a function with the answer.
        taken: called with a key and the claim of another host that replaces the listener here.
        arrived: called with the id of the host for each peer that it hands over.
    """

    def __init__(
        self,
        relay: HomeRelay,
        links: HostLinks,
        find_host: Callable[[str, Callable[[Found], None]], None],
        taken: Callable[[bytes, Claim], None],
        arrived: Callable[[str], None],
    ) -> None:
        self._relay = relay
        self._links = links
        self._find_host = find_host
        self._taken = taken
        self._arrived = arrived

    def accept(self, sock: Any, system_address: SystemAddress) -> None:
        """Accept a new connection."""
        if self._links.make_room():
            self._links.accept(sock, peer_address(system_address), self._authenticated)
        else:
            sock.close()

    def _authenticated(self, connection: SocketConnection) -> None:
        admit = partial(connection.call, self._admit, connection)
        self._find_host(encode_key(connection.key), admit)

    def _admit(self, connection: SocketConnection, found: Found) -> None:
        if connection.closed:
            return
        if found.host is None:
            connection.close(CloseReason.HANDSHAKE_FAILED, "the directory has no host with that key")
            return
        ordered = partial(self._ordered, found.host.name)
        connection.change_session(Event.AUTHENTICATE, AwaitingOrder(connection, ordered))
        connection.begin_reading()

    def _ordered(self, host: str, connection: SocketConnection, order: Order) -> None:
        if order.kind == TAKEN:
            self._taken(order.key, Claim(order.epoch, encode_key(connection.key)))
            connection.close(CloseReason.PEER_CLOSED)
        else:
            self._hand_over(host, connection, order)

    def _hand_over(self, host: str, connection: SocketConnection, order: Order) -> None:
        """Turn a connection from another host into the connection of its peer."""
        assert order.address is not None and connection.protocol is not None
        answer = self._obstacle(order)
        if answer is not None:
            connection.send_message(answer.encode())
            connection.close(CloseReason.PEER_CLOSED)
            return
        protocol, received = connection.protocol, connection.input.content()
        self._arrived(encode_key(connection.key))
        sock = self._links.hand_over(connection)
        peer = ForwardedConnection(self._relay.env, sock, order.address)
        peer.adopt(protocol, received, order.key)
        self._relay.admission.enter(peer)
        log_event(
            "forwarded from a host",
            collapse="FORWARDED_HERE",
            collapse_by=order.address.prefix,
            role=order.kind,
            key=short_key(order.key),
            other_key=short_key(order.other),
            address=order.address.text,
            other_host=host,
        )
        peer.call(self._relay.rendezvous.add_forwarded, peer, order.role, order.other, order.age)

    def _obstacle(self, order: Order) -> Optional[Answer]:
        """Return the answer if nothing here matches or there is no room; None to admit the peer."""
        assert order.address is not None
        registry = self._relay.rendezvous.registry
        if order.role is InitRole.CONNECT:
            self._relay.rendezvous.finish_claim(order.other)  # that host has found its claim
            if registry.listener_of(order.other) is None:
                return Answer(CloseReason.NO_LISTENER, not_here=True)
        elif registry.oldest_connect(order.other, order.key) is None:
            not_here = registry.listener_of(order.key) is None
            return Answer(CloseReason.NO_PENDING_CONNECT, not_here=not_here)
        reason = self._relay.admission.make_room(order.address)
        return None if reason is None else Answer(reason)
