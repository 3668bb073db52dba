"""Check a relay step by step, the way two nodes use it, and measure it.

    name lookup, and up to the handshake at every address if the name has several
    listener:   TCP connection, version, handshake, listen
    connector:  connect to the listener's key --> announced to the listener
    listener:   accept, on a new connection --> a message in each direction
    both, through every pair of the name's addresses: listen here, connect there
    listener and connector: round trips, bulk

Both nodes have new random identities, so the check does not affect any real node. With --idfile, both use the
given identity.

Source: sections 2, 4 and 7 of docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Optional, Protocol, Union

from offset_common.channel.secure_channel import Observer
from offset_common.client import (
    Deadline,
    Dialing,
    Incoming,
    Listener,
    Tunnel,
    find_addresses,
    open_socket,
    start_listener,
    start_tunnel,
)
from offset_common.client.dialing import SocketAddress, dial_found
from offset_common.errors import OffsetError, PeerError
from offset_common.identity import Identity
from offset_common.networks import names_this_host
from offset_common.tickets import RelayTicket
from offset_common.tools.address_check import AddressResult, check_addresses, failure_of_some
from offset_common.tools.failures import Failure, NotAnnouncedError, explain
from offset_common.tools.measurements import (
    BULK_SECONDS,
    Bulk,
    RoundTrips,
    measure_bulk,
    measure_round_trips,
)
from offset_common.tools.pair_check import RETRY_DELAY, check_pairs, wait_for_incoming
from offset_common.wire.messages import InitConnection, InitRole

CLOSE_TIMEOUT = 3.0  # seconds to close all connections
INTERRUPTED_CLOSE_TIMEOUT = 0.3  # seconds, after Ctrl-C
THERE = b"hello from the connector"
BACK = b"hello to you from the listener"
OWN_NAME = ": this machine itself; check from another one, too"
BLOCKED = ": a filter such as an ad blocker gives this answer for a name that it blocks; allow the name there"
NO_ADDRESSES = frozenset({"0.0.0.0", "::"})  # connections to them lead to this machine itself


class StepDone(NamedTuple):
    """A step that succeeded.

    Args:
        name: its name.
        seconds: its duration.
        detail: additional information, or an empty string.
    """

    name: str
    seconds: float
    detail: str


class Watcher(Protocol):
    """Receives the progress of a check."""

    def step_started(self, step: str, timeout: float) -> None:
        """Handle the start of a step that may take `timeout` seconds."""

    def step_done(self, step: StepDone) -> None:
        """Handle the success of a step."""

    def addresses_checked(self, results: Sequence[AddressResult]) -> None:
        """Handle the results of a name with several addresses."""

    def observer(self, connection: str) -> Optional[Observer]:
        """Return an observer for "listener", "connector" or "acceptor", or None."""


class _StepFailed(Exception):
    """Stops the check. The failure is in RelayCheck.failure."""


class RelayCheck:
    """One check of one relay.

    Args:
        ticket: the relay's ticket.
        watcher: receives the progress.
        timeout: seconds for each step.
        round_trips: measure round trips after the other steps.
        bulk: measure the throughput last.
        identity: the identity of both nodes; None for a new identity each.
    """

    def __init__(
        self,
        ticket: RelayTicket,
        watcher: Watcher,
        timeout: float,
        *,
        round_trips: bool = True,
        bulk: bool = True,
        identity: Optional[Identity] = None,
    ) -> None:
        self.ticket = ticket
        self.steps: list[StepDone] = []
        self.addresses: list[AddressResult] = []  # only for a name with several
        self.failure: Optional[Failure] = None
        self.round_trips: Optional[RoundTrips] = None
        self.bulk: Optional[Bulk] = None
        self._watcher = watcher
        self._timeout = timeout
        self._measure_round_trips = round_trips
        self._measure_bulk = bulk
        self._identity = identity
        self._listening_node = identity or Identity.generate()
        self._connecting_node = identity or Identity.generate()
        self._connections: list[Union[Tunnel, Listener]] = []

    def run(self) -> bool:
        """Run the steps up to the first that fails; return whether all succeeded."""
        try:
            with contextlib.suppress(_StepFailed):
                self._run_steps()
        except KeyboardInterrupt:
            self._close_connections(INTERRUPTED_CLOSE_TIMEOUT)
            raise
        self._close_connections(CLOSE_TIMEOUT)
        self.failure = self.failure or failure_of_some(self.ticket, self.addresses)
        return self.failure is None

    def _run_steps(self) -> None:
        found = self._find_addresses()
        # Nodes meet through any of the addresses, so the two nodes use different ones if there are several.
        listener = self._listen(found[:1])
        connector, incoming = self._connect(listener, found[-1:])
        with self._step("accept") as add_detail:
            init = InitConnection(InitRole.ACCEPT, incoming.public_key)
            acceptor = self._open_tunnel("acceptor", self._listening_node, found[-1:], init)
            add_detail("on a new connection")
        with self._step("message there"):
            connector.send(THERE)
            self._expect(acceptor, THERE)
        with self._step("message back"):
            acceptor.send(BACK)
            self._expect(connector, BACK)
        if len(set(found)) > 1:
            with self._step("pairs") as add_detail:
                pairs = check_pairs(self.ticket, list(dict.fromkeys(found)), self._timeout, self._identity)
                add_detail(f"nodes meet through all {pairs} pairs of addresses")
        if self._measure_round_trips:
            with self._step("round trips"):
                self.round_trips = measure_round_trips(connector, acceptor, self._timeout)
        if self._measure_bulk:
            with self._step("bulk", BULK_SECONDS + self._timeout):
                self.bulk = measure_bulk(connector, acceptor, self._timeout)

    def _find_addresses(self) -> Sequence[SocketAddress]:
        """Return the addresses that work; or the only one, unchecked; or those without a route."""
        with self._step("name lookup") as add_detail:
            found = find_addresses(self.ticket.address, Deadline(self._timeout))
            hosts = list(dict.fromkeys(str(each.sockaddr[0]) for each in found))
            remark = OWN_NAME if names_this_host(self.ticket.address.host, hosts) else ""
            add_detail(", ".join(hosts) + (BLOCKED if NO_ADDRESSES.issuperset(hosts) else remark))
        if len(set(found)) == 1:
            return found
        with self._step("addresses") as add_detail:
            self.addresses = check_addresses(self.ticket, found, self._timeout)
            self._watcher.addresses_checked(self.addresses)
            working = [each.address for each in self.addresses if each.works]
            failures = [each.failure for each in self.addresses if each.failure is not None]
            if failures and not working:
                self.failure = failures[0]
                raise _StepFailed
            unchecked = len(set(found)) - len(self.addresses)
            more = f", {unchecked} not checked" if unchecked else ""
            add_detail(f"{len(working)} of {len(self.addresses)} work{more}")
        return working or found

    def _listen(self, addresses: Sequence[SocketAddress]) -> Listener:
        """Connect to the relay step by step, and listen."""
        with self._step("TCP connection") as add_detail:
            sock = open_socket(self.ticket.address, addresses, Deadline(self._timeout))
            with contextlib.suppress(OSError):  # if it is reset already, the next step says so
                host, port, *_ = sock.getpeername()
                add_detail(f"to {host} port {port}")
        dialing = Dialing(sock, self.ticket, self._listening_node, self._watcher.observer("listener"))
        with self._step("version"):
            dialing.exchange_versions(Deadline(self._timeout))
        with self._step("handshake") as add_detail:
            dialing.complete_handshake(Deadline(self._timeout))
            add_detail("the relay proved the key in the ticket")
        with self._step("listen") as add_detail:
            listener = start_listener(dialing)
            self._connections.append(listener)
            add_detail("sent; a relay does not answer it")
        return listener

    def _open_tunnel(
        self, name: str, node: Identity, addresses: Sequence[SocketAddress], init: InitConnection
    ) -> Tunnel:
        """Open a new connection to the relay, and send a connect or an accept."""
        observer = self._watcher.observer(name)
        dialing = dial_found(self.ticket, node, addresses, Deadline(self._timeout), observer)
        tunnel = start_tunnel(dialing, init, end_to_end=False, timeout=self._timeout)
        self._connections.append(tunnel)
        return tunnel

    def _connect(self, listener: Listener, addresses: Sequence[SocketAddress]) -> tuple[Tunnel, Incoming]:
        """Repeat the connect until the listener receives it: the relay may process the listen later."""
        deadline = Deadline(self._timeout)
        with self._step("connect") as add_detail:
            attempts = 0
            while deadline.left():
                attempts += 1
                init = InitConnection(InitRole.CONNECT, self._listening_node.public_key)
                tunnel = self._open_tunnel("connector", self._connecting_node, addresses, init)
                incoming = wait_for_incoming(listener, tunnel, deadline)
                if incoming is not None:
                    add_detail(
                        "announced to the listener" + (f", attempt {attempts}" if attempts > 1 else "")
                    )
                    return tunnel, incoming
                time.sleep(min(RETRY_DELAY, deadline.left()))
            raise NotAnnouncedError(
                f"the relay at {self.ticket.address} did not announce the connect within {self._timeout:g} s"
            )

    def _expect(self, tunnel: Tunnel, message: bytes) -> None:
        if tunnel.receive(self._timeout) != message:
            raise PeerError("the message that arrived differs from the one sent")

    def _close_connections(self, timeout: float) -> None:
        """Close all connections in an orderly way, so that the relay's log shows no errors."""
        for connection in self._connections:
            connection.close(timeout=0)
        deadline = Deadline(timeout)
        for connection in self._connections:
            connection.close(deadline.left())

    @contextlib.contextmanager
    def _step(self, name: str, timeout: Optional[float] = None) -> Iterator[Callable[[str], None]]:
        self._watcher.step_started(name, timeout or self._timeout)
        detail: list[str] = []
        start = time.perf_counter()
        try:
            yield detail.append
        except (OffsetError, TimeoutError) as error:
            self.failure = explain(name, error, self.ticket)
            raise _StepFailed from error
        done = StepDone(name, time.perf_counter() - start, "".join(detail))
        self.steps.append(done)
        self._watcher.step_done(done)
