"""At the host where a peer arrives: its connect or accept is forwarded to the home of the listener.

    find the home --> connect to it --> send the order --> "joined": the two connections are a tunnel
                                                      --> a reason: the peer is closed for it
                                                      --> "not here": look again, once

Until the home has joined the peer, this host keeps what the peer sends, as for any pending connect. The home
decides how long a connect may wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple, Optional

from offset_common.fleet.entries import Host
from offset_common.fleet.events import Found
from offset_common.fleet.host_links import HostLinks
from offset_common.fleet.orders import ROLES, Answer, Order
from offset_common.identity import short_key
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import Event, State
from offset_common.relay.log import log_event
from offset_common.relay.rendezvous import TunnelMaker
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import InitRole

MAX_ATTEMPTS = 2  # the home may change once meanwhile

KINDS = {role: kind for kind, role in ROLES.items()}
UNMATCHED = {InitRole.CONNECT: CloseReason.NO_LISTENER, InitRole.ACCEPT: CloseReason.NO_PENDING_CONNECT}


class AwaitingHome(MessageSession):
    """A connection to the home, before its answer.

    Args:
        connection: the connection.
        answered: called with the answer.
        ended: called with the reason when the connection ends.
    """

    __slots__ = ("_answered", "_ended")

    state = State.AWAITING_INIT

    def __init__(
        self,
        connection: SocketConnection,
        answered: Callable[[Answer], None],
        ended: Callable[[CloseReason], None],
    ) -> None:
        super().__init__(connection)
        self._answered = answered
        self._ended = ended

    def on_message(self, message: bytes) -> None:
        """Pass the answer on."""
        self._answered(Answer.decode(message))

    def on_deadline(self) -> None:
        """Keep waiting: the home decides how long."""
        self.connection.extend_deadline()

    def on_closed(self, reason: CloseReason) -> None:
        """Report the end."""
        self._ended(reason)


class Means(NamedTuple):
    """The parts of a host that forwarding uses.

    Args:
        find_home: asks the directory where a key listens, and calls a function with the answer.
        links: connects to other hosts.
        take_back: lets a connect wait on this host after all.
        tunnels: makes tunnels that are not counted: the home counts.
        joins: called with the peer and the id of its home, before it is joined there.
    """

    find_home: Callable[[bytes, Callable[[Found], None]], None]
    links: HostLinks
    take_back: Callable[[PendingConnect, bytes], None]
    tunnels: TunnelMaker
    joins: Callable[[SocketConnection, str], None]


class Forwarding(PendingConnect):
    """A connect or accept on its way to its home; what its peer sends is kept meanwhile.

    Args:
        means: the parts of the host that it uses.
        connection: the peer's; it awaits its role, or waits for a listener that has moved.
        role: what the peer asked for.
        other: the key at the other end.
        early: the messages that the peer has sent.
        age: seconds since the peer asked.
    """

    __slots__ = (
        "_attempts",
        "_done",
        "_give_up",
        "_home",
        "_host",
        "_listener",
        "_means",
        "_other",
        "_role",
    )

    def __init__(
        self,
        means: Means,
        connection: SocketConnection,
        role: InitRole,
        other: bytes,
        early: Sequence[bytes] = (),
        age: float = 0.0,
    ) -> None:
        super().__init__(connection, early, age)
        self._means = means
        self._role = role
        self._other = other
        self._listener = other if role is InitRole.CONNECT else connection.key
        self._attempts = 0
        self._host: Optional[Host] = None
        self._home: Optional[SocketConnection] = None
        self._give_up: Callable[[], None] = _nothing
        self._done = False
        connection.change_session(Event.FORWARD, self)

    def on_deadline(self) -> None:
        """Keep waiting: the home closes the connection in time, and a dead home is noticed by its silence."""
        self.connection.extend_deadline()

    def on_closed(self, reason: CloseReason) -> None:
        """Discard the early data, and give up."""
        super().on_closed(reason)
        self._done = True
        self._abandon_home()

    def start(self) -> None:
        """Look for the home."""
        self._attempts += 1
        self._means.find_home(self._listener, partial(self.connection.call, self._found))

    def _found(self, found: Found) -> None:
        if self._done:
            return
        if found.host is None:
            self._stay()
            return
        self._host = found.host
        if not self._means.links.make_room():
            self._refuse(CloseReason.LIMIT_TOTAL)
            return
        address = self.connection.address
        failed = partial(self.connection.call, self._look_again)
        self._give_up = self._means.links.dial(found.host, address, self._established, failed)

    def _established(self, home: SocketConnection) -> None:
        self._home = home
        home.change_session(Event.AUTHENTICATE, AwaitingHome(home, self._answered, self._home_ended))
        home.begin_reading()
        peer = self.connection
        age = peer.loop.now - self.since
        home.send_message(Order(KINDS[self._role], peer.key, self._other, peer.address, age).encode())

    def _answered(self, answer: Answer) -> None:
        if self._done:
            return
        if answer.reason is None:
            self._join()
        elif answer.not_here:
            self._look_again("it does not listen there")
        else:
            self._refuse(answer.reason, answer.detail)

    def _join(self) -> None:
        assert self._home is not None and self._host is not None
        self._done = True
        peer = self.connection
        log_event(
            "forwarded to its home",
            collapse="FORWARDED",
            collapse_by=peer.address.prefix,
            role=KINDS[self._role],
            key=short_key(peer.key),
            other_key=short_key(self._other),
            address=peer.address.text,
            other_host=self._host.name,
        )
        self._means.joins(peer, self._host.id)
        if peer.closed:
            return  # the link to its host broke while that host was told; the home has been given up
        try:
            self._means.tunnels.make_tunnel(self, self._home)
        except Exception:
            peer.close(CloseReason.PARTNER_ENDED)
            raise
        self._give_up = _nothing  # it refers to this object

    def _look_again(self, reason: str) -> None:
        if self._done:
            return
        self._abandon_home()
        if self._attempts < MAX_ATTEMPTS:
            self.start()
        else:
            assert self._host is not None
            self._refuse(UNMATCHED[self._role], f"the host {self._host.name}: {reason}")

    def _stay(self) -> None:
        """Serve the peer on this host: the key listens here, or nowhere."""
        if self._role is InitRole.CONNECT:
            self._done = True
            self._means.take_back(self, self._other)
        else:
            self._refuse(CloseReason.NO_PENDING_CONNECT)

    def _refuse(self, reason: CloseReason, detail: str = "") -> None:
        self.connection.close(reason, detail)

    def _home_ended(self, reason: CloseReason) -> None:
        if not self._done and self._home is not None:
            assert self._host is not None
            self._refuse(CloseReason.LISTENER_ENDED, f"the host {self._host.name}: {reason.value}")

    def _abandon_home(self) -> None:
        self._home = None
        give_up, self._give_up = self._give_up, _nothing
        give_up()


def _nothing() -> None:
    """Give up before a connection has been opened."""
