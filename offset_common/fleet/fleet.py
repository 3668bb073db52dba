"""One host of a fleet: connects the directory, the connections between hosts and the relay.

Everything here runs in the event loop; only store.py has a thread.
"""

from __future__ import annotations

import logging
import math
import socket
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Callable, NamedTuple, Protocol

from offset_common.address import Address
from offset_common.fleet.arrivals import Arrivals, ForwardedConnection, HomeRelay
from offset_common.fleet.directory import Directory
from offset_common.fleet.entries import Claim, Entries, Host
from offset_common.fleet.events import (
    Accepted,
    Away,
    Claimed,
    FleetEvent,
    Found,
    Lost,
    Present,
    Refused,
    Replaced,
)
from offset_common.fleet.forwarding import AwaitingHome, Forwarding, Means
from offset_common.fleet.host_links import HostLinks
from offset_common.fleet.location import Location
from offset_common.fleet.orders import TAKEN, Order
from offset_common.fleet.store import Result, Store
from offset_common.identity import Identity, encode_key
from offset_common.relay.acceptor import Acceptor
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.homes import FleetView, Homes, HostView
from offset_common.relay.lifecycle import Event
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.rendezvous import TunnelMaker
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.relay.totals import Traffic
from offset_common.wire.messages import InitRole

LOOK_INTERVAL = 0.25  # seconds before connects that wait for expected listeners try other hosts again
LOOKS = 100  # connects that do so together: about 5 ms of the event loop


class FleetOptions(NamedTuple):
    """The options of the operator.

    Args:
        location: where the directory is.
        sockets: bound and listening sockets for other hosts.
        address: where other hosts reach this one: an IP address and a port.
        name: the name of this host, for people.
    """

    location: Location
    sockets: Sequence[socket.socket]
    address: Address
    name: str


class FleetRelay(HomeRelay, Protocol):
    """The parts of a relay that a fleet uses."""

    identity: Identity
    loop: EventLoop
    uncounted_tunnels: TunnelMaker

    @property
    def limits(self) -> Limits:
        """Return its limits."""


class Fleet(Homes):
    """This host in its fleet.

    Args:
        options: the options of the operator.
        relay: the relay of this host.

    Raises:
        UsageError: no client library for the directory is installed.
        ServiceError: the system cannot start the threads.
    """

    def __init__(self, options: FleetOptions, relay: FleetRelay) -> None:
        self._relay = relay
        self._loop = relay.loop
        identity = Identity.generate()  # fresh; other hosts know it only from the directory
        self._own = Host(encode_key(identity.public_key), options.name, options.address)
        relay_key = relay.identity.public_key
        self.directory = Directory(relay_key, self._own)
        self._waiting: dict[int, Callable[[Found], None]] = {}
        self._left = False
        self._look_at = math.inf
        self._names: dict[str, Host] = {}  # all hosts that were ever used, by id
        self._forwarded_to: Counter[str] = Counter()
        self._forwarded_from: Counter[str] = Counter()
        self.links = HostLinks(relay.env, identity, relay.limits)
        self._means = Means(self._find_home, self.links, self._take_back, relay.uncounted_tunnels, self._join)
        arrivals = Arrivals(relay, self.links, self._find_host, self._lose, self._arrived)
        rate = relay.limits.accepts_per_second
        self._acceptors = [
            Acceptor(self._loop, sock, rate, arrivals.accept, lambda error: False) for sock in options.sockets
        ]
        self._store = Store(options.location, Entries(relay_key).any_key, self._deliver)
        self._store.start()
        self._loop.add_periodic(self._write, self.directory.next_time)
        self._loop.add_periodic(self._look_again, lambda: self._look_at)
        log_event("fleet ready", address=str(self._own.address))

    @property
    def busy(self) -> bool:
        """Whether connections to other hosts are open."""
        return len(self.links) > 0

    def view(self) -> FleetView:
        """Return the state of the fleet."""
        directory, traffic = self.directory, self.links.traffic()
        state = "away" if not directory.present else "refuses entries" if directory.refuses else "present"
        known = {**self._names, **directory.hosts}
        known.pop(self._own.id, None)
        hosts = [
            HostView(
                host.name,
                str(host.address),
                host.id in directory.hosts,
                self._forwarded_to[host.id],
                self._forwarded_from[host.id],
                *traffic.get(host.id, Traffic(0, 0)),
            )
            for host in known.values()
        ]
        return FleetView(
            self._own.name,
            str(self._own.address),
            state,
            len(directory.claims),
            directory.claims.unclaimed,
            len(self.links),
            sorted(hosts),
        )

    # From the relay.

    def claim(self, key: bytes) -> bool:
        """Claim `key` for this host; while the directory is unreachable, the listener need not wait."""
        self.directory.claims.listen(key)
        return self.directory.present

    def release(self, key: bytes) -> None:
        """Drop the claim of `key`."""
        self.directory.claims.stop(key)

    def forward(self, connection: SocketConnection, role: InitRole, other: bytes) -> bool:
        """Forward a connect or accept to the home of its listener."""
        Forwarding(self._means, connection, role, other).start()
        return True

    def forward_pending(self, pending: PendingConnect, target: bytes) -> None:
        """Forward a connect that has waited here, with its early data."""
        early, age = pending.take_early_data(), self._loop.now - pending.since
        Forwarding(self._means, pending.connection, InitRole.CONNECT, target, early, age).start()

    def before_join(self, connect: SocketConnection, accept: SocketConnection) -> None:
        """Tell the hosts where the ends of a tunnel arrived to begin forwarding."""
        _joined(connect)
        _joined(accept)

    def leave(self) -> None:
        """Remove this host from the directory, and accept no more connections from other hosts."""
        if self._left:
            return
        self._left = True
        for acceptor in self._acceptors:
            acceptor.close()
        self.directory.leave()
        self._pump()

    def close(self) -> None:
        """Close all connections to other hosts, and end the threads."""
        self.leave()
        self.links.close()
        self._store.close()

    # To and from the directory.

    def _find_home(self, key: bytes, call: Callable[[Found], None]) -> None:
        self._waiting[self.directory.find_home(key, self._loop.now)] = call
        self._pump()

    def _find_host(self, host: str, call: Callable[[Found], None]) -> None:
        self._waiting[self.directory.find_host(host, self._loop.now)] = call
        self._pump()

    def _deliver(self, number: int, result: Result) -> None:
        """Pass a result to the event loop, from the thread of the store."""
        self._loop.call_soon_threadsafe(partial(self._take_result, number, result))

    def _take_result(self, number: int, result: Result) -> None:
        now = self._loop.now
        if isinstance(result, str):
            self.directory.fail(number, result, now)
        else:
            self.directory.answer(number, result, now)
        self._write()

    def _write(self) -> None:
        self.directory.handle_time(self._loop.now)
        self._pump()

    def _pump(self) -> None:
        for request in self.directory.take_requests():
            self._store.send(request)
        for event in self.directory.take_events():
            self._handle(event)

    def _handle(self, event: FleetEvent) -> None:
        if isinstance(event, Found):
            self._waiting.pop(event.number)(event)
        elif isinstance(event, Claimed):
            self._relay.rendezvous.finish_claim(event.key)
        elif isinstance(event, Lost):
            self._relay.rendezvous.lose(event.key)
        elif isinstance(event, Replaced):
            self._tell(event)
        else:
            self._log(event)

    def _log(self, event: FleetEvent) -> None:
        if isinstance(event, Away):
            self._relay.rendezvous.finish_claims()
            log_event("directory away", logging.WARNING, reason=event.reason)
        elif isinstance(event, Present):
            log_event("directory present", listeners=len(self.directory.claims))
        elif isinstance(event, Refused):
            log_event("directory refuses entries", logging.WARNING, reason=event.reason)
        elif isinstance(event, Accepted):
            log_event("directory accepts entries")

    # To and from other hosts.

    def _join(self, peer: SocketConnection, host: str) -> None:
        self._count(self._forwarded_to, host)
        _joined(peer)

    def _arrived(self, host: str) -> None:
        self._count(self._forwarded_from, host)

    def _count(self, counter: Counter[str], host: str) -> None:
        counter[host] += 1
        found = self.directory.hosts.get(host)
        if found is not None:
            self._names[host] = found

    def _take_back(self, pending: PendingConnect, target: bytes) -> None:
        self._relay.rendezvous.take_back(pending, target)
        self._look_at = min(self._look_at, self._loop.now + LOOK_INTERVAL)

    def _look_again(self) -> None:
        """Forward connects that wait for expected listeners, which may now be at another host."""
        if self._loop.now >= self._look_at:
            more = self._relay.rendezvous.forward_unattended(LOOKS)
            self._look_at = self._loop.now + LOOK_INTERVAL if more else math.inf

    def _lose(self, key: bytes, claim: Claim) -> None:
        self.directory.claims.lose(key, claim)
        self._pump()

    def _tell(self, event: Replaced) -> None:
        """Tell the host of a replaced listener; otherwise it would notice at its next refresh."""
        host = self.directory.hosts.get(event.host)
        if host is None or not self.links.make_room():
            return
        order = Order(TAKEN, event.key, epoch=event.claim.epoch).encode()

        def established(connection: SocketConnection) -> None:
            session = AwaitingHome(connection, lambda answer: None, lambda reason: None)
            connection.change_session(Event.AUTHENTICATE, session)
            connection.begin_reading()
            connection.send_message(order)

        self.links.dial(host, PeerAddress(str(host.address), host.address.host), established, _give_up)


def _joined(connection: SocketConnection) -> None:
    if isinstance(connection, ForwardedConnection):
        connection.answer_joined()


def _give_up(reason: str) -> None:
    """Ignore the failure: the other host notices at its next refresh."""
