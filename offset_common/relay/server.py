"""The relay: builds its parts; starts, drains and stops them."""

from __future__ import annotations

import logging
import socket
import time
from collections import Counter
from typing import Callable, Optional, Protocol

from offset_common.channel.connection import VERSION_FRAME
from offset_common.errors import ServiceError
from offset_common.identity import Identity, encode_key, short_key
from offset_common.networks import NetworkSet
from offset_common.relay.acceptor import Acceptor
from offset_common.relay.addresses import PeerAddress, SystemAddress, peer_address, show_address
from offset_common.relay.admission import Admission
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.handshake_pool import HandshakePool
from offset_common.relay.homes import FleetView
from offset_common.relay.input_buffer import ReceiveBuffer
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import RelayLog, log_event
from offset_common.relay.policy import Policy
from offset_common.relay.proxy_protocol import ProxyHeaders
from offset_common.relay.rendezvous import Rendezvous, TunnelMaker
from offset_common.relay.sessions.closing import finish
from offset_common.relay.sessions.handshake import Handshake
from offset_common.relay.sessions.tunnel import Tunnels
from offset_common.relay.status import Traffic, describe
from offset_common.wire.messages import InitRole

FLUSH_TIME = 2.0  # seconds for the last output after the drain
DRAIN_CHECK_INTERVAL = 0.1  # seconds


class Workers(TunnelMaker, Protocol):
    """Worker processes that forward tunnels (workers/); a relay of one process does not load them."""

    def stop_restarting(self) -> None:
        """Restart no more workers: the relay is about to stop."""

    def stop(self) -> None:
        """End the workers."""


class Relay:
    """One relay.

    Args:
        identity: the key pair of the relay; its public key is in the ticket.
        sockets: bound and listening sockets.
        limits: in total, per address and per key.
        log: writes the log.
        clock: returns the time in seconds, as time.monotonic does.
        workers: how many processes forward tunnels; with 1, this one does.
        policy: the operator's rules besides the limits.
        balancers: the networks of load balancers that send PROXY headers.

    Raises:
        ServiceError: the system cannot start that many processes or threads.
    """

    def __init__(
        self,
        identity: Identity,
        sockets: list[socket.socket],
        limits: Limits,
        log: RelayLog,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
        policy: Optional[Policy] = None,
        balancers: Optional[NetworkSet] = None,
    ) -> None:
        self.identity = identity
        self.ended: Counter[CloseReason] = Counter()
        self.ended_traffic = Traffic(0, 0)
        self.bugs = 0
        self.loop = EventLoop(clock)
        self.buffers = BufferPool(limits.buffers)
        self._limits = limits
        self._log = log
        self._policy = policy or Policy()
        self.admission = Admission(limits, self._policy)
        self.env = Environment(
            self.loop, self.buffers, ReceiveBuffer(), limits.stall, self._connection_closed, self._report_bug
        )
        self._workers = self._start_workers(workers) if workers > 1 else None
        tunnels: TunnelMaker = self._workers or Tunnels(self._policy.meter)
        self.uncounted_tunnels = Tunnels() if self._policy.meters else tunnels
        self.rendezvous = Rendezvous(self.loop, limits, tunnels, self.admission, self._policy)
        self._handshakes = self._start_handshakes()
        self._headers = self._read_headers(balancers) if balancers else None
        accept = self._headers.accept if self._headers is not None else self._accept
        self._acceptors = [
            Acceptor(self.loop, sock, limits.accepts_per_second, accept, self._out_of_resources)
            for sock in sockets
        ]
        self._drain_until: Optional[float] = None
        self._stopping = False
        self._drained = False  # the tunnels have been told to finish
        self.loop.add_periodic(lambda: self.buffers.resume_waiting(self.loop.now), self.buffers.next_time)
        self.loop.add_periodic(self._write_log, self._next_log_time)
        self._policy.attach(self)

    @property
    def addresses(self) -> list[str]:
        """The addresses that the relay listens on, as "host:port"."""
        return [show_address(each.sock.getsockname()) for each in self._acceptors]

    @property
    def limits(self) -> Limits:
        """The limits: in total, per address and per key."""
        return self._limits

    @property
    def draining(self) -> bool:
        """Whether the relay accepts no more connections and is about to stop."""
        return self._drain_until is not None

    def serve(self) -> None:
        """Serve until `stop` has ended everything."""
        key = encode_key(self.identity.public_key)
        log_event("relay ready", address=self.addresses, public_key=key)
        self._log.flush()
        try:
            self.loop.run()
        finally:
            self.close()

    def stop(self, drain: float) -> None:
        """Stop accepting, let tunnels continue for `drain` seconds, then end them gracefully.

        A second call ends everything at once.
        """
        if self._stopping:
            self.loop.stop()
            return
        self._stopping = True
        log_event("stopping", drain_seconds=drain)
        self._drain_within(drain)
        self.loop.call_for_each(self.connections(), _close_without_tunnel)
        self.rendezvous.refuse(tuple(InitRole))

    def retire(self, drain: float) -> None:
        """Leave new connections to another process, and drain; `stop` may follow and shorten the drain.

        Peers that are about to connect or accept may still do so: their listener may be at another host.
        """
        log_event("draining", drain_seconds=drain)
        self._drain_within(drain)
        self.rendezvous.refuse((InitRole.LISTEN,))
        self.loop.call_for_each(self.connections(), _close_listener)

    def reload(self, done: Callable[[], None] = lambda: None) -> None:
        """Read the operator's files again, then call `done`."""
        self._policy.reload(done)

    def change_limits(self, limits: Limits) -> None:
        """Change the limits on connections, their rate and what a key may hold; the others need a restart."""
        self._limits = limits
        self.admission.change_limits(limits)
        self.rendezvous.registry.change_limits(limits)
        for acceptor in self._acceptors:
            acceptor.change_rate(limits.accepts_per_second)

    def connections(self) -> list[SocketConnection]:
        """Return all connections."""
        return self.admission.all()

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the operator gave a key, or None."""
        return self._policy.name_of(key)

    def view_fleet(self) -> Optional[FleetView]:
        """Return the state of the fleet that the relay belongs to, or None."""
        return self.rendezvous.homes.view()

    def show_state(self) -> None:
        """Log one line with the current state."""
        log_event("relay state", **describe(self))

    def close(self) -> None:
        """Close all connections and release every descriptor and thread."""
        self._handshakes.close()
        self._stop_accepting()
        for connection in self.connections():
            connection.close(CloseReason.SHUTDOWN)
        self.rendezvous.homes.close()
        if self._workers is not None:
            self._workers.stop()
        self._policy.close()
        log_event("stopped", connections=sum(self.ended.values()))
        self._log.close()
        self.loop.close()

    def _start_workers(self, count: int) -> Workers:
        # Imported here so that a relay of one process does not load it.
        from offset_common.relay.workers.pool import WorkerPool

        program = self._policy.worker_program(count)
        return WorkerPool(self.loop, self._limits, count, Tunnels(self._policy.meter), program)

    def _read_headers(self, balancers: NetworkSet) -> ProxyHeaders:
        return ProxyHeaders(
            self.loop, balancers, self._limits.connections, self._accept, self._header_refused
        )

    def _start_handshakes(self) -> HandshakePool:
        try:
            call_soon = self.loop.call_soon_threadsafe
            return HandshakePool(self.identity, self._limits.handshake_threads, call_soon)
        except ServiceError:
            if self._workers is not None:
                self._workers.stop()
            raise

    def _stop_accepting(self) -> None:
        for acceptor in self._acceptors:
            acceptor.close()
        self._acceptors.clear()
        if self._headers is not None:
            self._headers.close()

    # The way in: accepted, authenticated, then handed to the rendezvous.

    def _accept(self, sock: socket.socket, system_address: SystemAddress) -> None:
        address = peer_address(system_address, self._limits.ipv6_prefix)
        reason = self.admit_address(address)
        if reason is not None:
            sock.close()
            return
        connection = SocketConnection(self.env, sock, address)
        self.admission.enter(connection)
        session = Handshake(connection, self._handshakes, self.admission.protect, self.rendezvous.enter)
        try:
            connection.start(session)
            connection.write(VERSION_FRAME)  # "as soon as the TCP connection is up, without waiting" (2)
        except Exception as error:
            connection.fail(error)

    def admit_address(self, address: PeerAddress) -> Optional[CloseReason]:
        """Make room for a connection; return None, or log and return why there is no room."""
        reason = self.admission.make_room(address)
        if reason is not None:
            self._log_refusal(address, reason)
        return reason

    def _header_refused(self, balancer: SystemAddress, detail: str) -> None:
        address = peer_address(balancer, self._limits.ipv6_prefix)
        self._log_refusal(address, CloseReason.NO_PROXY_HEADER, detail)

    def _log_refusal(self, address: PeerAddress, reason: CloseReason, detail: Optional[str] = None) -> None:
        self.ended[reason] += 1
        log_event(
            "connection refused",
            collapse=reason.name,
            collapse_by=address.prefix,
            address=address.text,
            reason=reason.value,
            detail=detail,
        )

    def _out_of_resources(self, error: OSError) -> bool:
        log_event(
            "cannot accept connections",
            logging.WARNING,
            collapse="resources",
            error=error.strerror or str(error),
        )
        return self.admission.evict()

    # The way out.

    def _connection_closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        self.ended[reason] += 1
        self.ended_traffic = self.ended_traffic.plus(connection.received, connection.sent)
        self.admission.leave(connection)
        self.rendezvous.forget(connection)
        self._policy.forget(connection)
        log_event(
            "connection ended",
            collapse=reason.name,
            collapse_by=connection.address.prefix,
            address=connection.address.text,
            key=short_key(connection.key) if connection.key else "-",
            name=self.name_of(connection.key),
            role=connection.session.state.role,
            reason=reason.value,
            detail=detail or None,
            received=connection.received,
            sent=connection.sent,
            seconds=round(self.loop.now - connection.started_at, 1),
        )

    def _report_bug(self, connection: SocketConnection, error: BaseException) -> None:
        self.bugs += 1
        log_event("bug", logging.ERROR, collapse="bug", exc_info=error, address=connection.address.text)

    def _drain_within(self, seconds: float) -> None:
        until = self.loop.now + seconds
        if self._drain_until is not None:
            self._drain_until = min(self._drain_until, until)
            return
        self._drain_until = until
        self.loop.add_periodic(self._drain, lambda: self.loop.now + DRAIN_CHECK_INTERVAL)
        self._stop_accepting()
        self.rendezvous.homes.leave()
        if self._workers is not None:
            self._workers.stop_restarting()

    # Work in every round of the loop.

    def _write_log(self) -> None:
        self._log.handle_time(self.loop.now)
        if self._log.pending:
            self._log.flush()

    def _next_log_time(self) -> float:
        # Lines that could not be written are tried again a second later.
        return self.loop.now + 1.0 if self._log.pending else self._log.next_deadline()

    def _drain(self) -> None:
        assert self._drain_until is not None
        idle = not len(self.admission) and not self.rendezvous.homes.busy
        if idle or self.loop.now >= self._drain_until + FLUSH_TIME:
            self.loop.stop()
        elif self.loop.now >= self._drain_until and not self._drained:
            self._drained = True
            tunnels = [each for each in self.connections() if each.session.state is State.TUNNEL]
            self.loop.call_for_each(tunnels, lambda each: finish(each, CloseReason.SHUTDOWN))


def _close_without_tunnel(connection: SocketConnection) -> None:
    if connection.session.state is not State.TUNNEL:
        finish(connection, CloseReason.SHUTDOWN)


def _close_listener(connection: SocketConnection) -> None:
    if connection.session.state is State.LISTENER:
        finish(connection, CloseReason.SHUTDOWN)
