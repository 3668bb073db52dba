"""The relay: builds its parts; starts, drains and stops them."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from functools import partial
from typing import Callable, Optional, Protocol

from offset_common.identity import Identity, encode_key
from offset_common.networks import NetworkSet
from offset_common.relay.admission import Admission
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import Environment, SocketConnection
from offset_common.relay.entrance import Entrance
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.handshake_pool import HandshakePool
from offset_common.relay.homes import Homes
from offset_common.relay.input_buffer import ReceiveBuffer
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import RelayLog, log_event
from offset_common.relay.policy import Policy, PolicyRelay
from offset_common.relay.rendezvous import Rendezvous, TunnelMaker
from offset_common.relay.sessions.tunnel import Tunnels
from offset_common.relay.state_line import describe
from offset_common.relay.totals import Totals
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
        sockets: bound and listening sockets; the relay closes them, even if its construction fails.
        limits: in total, per address and per key.
        log: writes the log.
        clock: returns the time in seconds, as time.monotonic does.
        workers: how many processes forward tunnels; with 1, this one does.
        make_policy: makes the operator's rules besides the limits.
        make_homes: makes the part that knows other hosts; `admission` and `rendezvous` do not exist yet.
        balancers: the networks of load balancers that send PROXY headers.

    Raises:
        OperatorError: the policy or the homes cannot be made, or the system cannot start that many processes
            or threads.
        OSError: the system allows no more threads, or cannot watch the sockets.
    """

    def __init__(
        self,
        identity: Identity,
        sockets: list[socket.socket],
        limits: Limits,
        log: RelayLog,
        clock: Callable[[], float] = time.monotonic,
        workers: int = 1,
        make_policy: Callable[[PolicyRelay], Policy] = lambda relay: Policy(),
        make_homes: Callable[[Relay], Homes] = lambda relay: Homes(),
        balancers: Optional[NetworkSet] = None,
    ) -> None:
        self.identity = identity
        self.totals = Totals()
        self.loop = EventLoop(clock)
        self.buffers = BufferPool(limits.buffers)
        self.limits = limits
        self.workers = workers
        self._log = log
        self._drain_until: Optional[float] = None
        self._served = self._stopping = False
        self._tunnels_ending = False
        self.env = Environment(
            self.loop, self.buffers, ReceiveBuffer(), limits.stall, self._closed, self.totals.count_bug
        )
        with ExitStack() as parts:  # closed in reverse order: by `close`, or if a part cannot start
            parts.callback(self.loop.close)
            parts.callback(log.close)
            parts.callback(self._log_end)
            for sock in sockets:
                parts.callback(sock.close)
            policy = self._policy = make_policy(self)
            parts.callback(policy.close)
            self._worker_pool: Optional[Workers] = None
            if workers > 1:
                self._worker_pool = self._start_workers()
                parts.callback(self._worker_pool.stop)
            tunnels: TunnelMaker = self._worker_pool or Tunnels(policy.meter)
            # For peers that are forwarded to another host, which counts what they send.
            self.uncounted_tunnels = Tunnels() if policy.meters else tunnels
            homes = make_homes(self)
            parts.callback(homes.close)
            self.admission = Admission(limits, policy, self.totals)
            self.rendezvous = Rendezvous(self.loop, limits, tunnels, self.admission, policy, homes)
            parts.callback(self._close_connections)
            threads, call_soon_threadsafe = limits.handshake_threads, self.loop.call_soon_threadsafe
            pool = HandshakePool(identity, threads, call_soon_threadsafe)
            parts.callback(pool.close)
            authenticated = self.rendezvous.await_init
            self.entrance = Entrance(
                self.env, limits, self.admission, self.totals, pool, authenticated, sockets, balancers
            )
            parts.callback(self.entrance.close)
            self._parts = parts.pop_all()
        self.loop.add_periodic(lambda: self.buffers.resume_waiting(self.loop.now), self.buffers.next_time)
        self.loop.add_periodic(log.handle_time, log.next_time)

    @property
    def addresses(self) -> list[str]:
        """The addresses that the relay listens on, as "host:port"."""
        return self.entrance.addresses

    @property
    def draining(self) -> bool:
        """Whether the relay accepts no more connections and is about to stop."""
        return self._drain_until is not None

    def serve(self) -> None:
        """Serve until `stop` has ended everything."""
        key = encode_key(self.identity.public_key)
        log_event("relay ready", address=self.addresses, public_key=key)
        self._log.flush()
        self._served = True
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
        self._finish(set(State) - {State.TUNNEL})
        self.rendezvous.refuse(tuple(InitRole))

    def retire(self, drain: float) -> None:
        """Leave new connections to another process, and drain; `stop` may follow and shorten the drain.

        Peers that are about to connect or accept may still do so: their listener may be at another host.
        """
        log_event("draining", drain_seconds=drain)
        self._drain_within(drain)
        self.rendezvous.refuse((InitRole.LISTEN,))
        self._finish({State.LISTENER})

    def reload(self, done: Callable[[], None] = lambda: None) -> None:
        """Read the operator's files again, then call `done`."""
        self._policy.reload(done)

    def change_limits(self, limits: Limits) -> None:
        """Change the limits on connections, their rate and what a key may hold; the others need a restart."""
        self.limits = limits
        self.admission.change_limits(limits)
        self.rendezvous.registry.change_limits(limits)
        self.entrance.change_rate(limits.accepts_per_second)

    def connections(self) -> list[SocketConnection]:
        """Return all connections."""
        return self.admission.all()

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the operator gave a key, or None."""
        return self._policy.name_of(key)

    def show_state(self) -> None:
        """Log one line with the current state."""
        log_event("relay state", **describe(self))

    def close(self) -> None:
        """Close all connections and release every descriptor and thread."""
        self._parts.close()

    def _close_connections(self) -> None:
        for connection in self.connections():
            connection.close(CloseReason.SHUTDOWN)

    def _log_end(self) -> None:
        if self._served:
            log_event("stopped", connections=sum(self.totals.ended.values()))

    def _start_workers(self) -> Workers:
        # Imported here so that a relay of one process does not load it.
        from offset_common.relay.workers.pool import WorkerPool

        local = Tunnels(self._policy.meter)
        return WorkerPool(self.loop, self.limits, self.workers, local, self._policy.worker_program)

    def _closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        self.admission.leave(connection)
        self.rendezvous.forget(connection)
        self._policy.forget(connection)
        self.totals.count_end(connection, reason, detail, self.name_of(connection.key))

    def _drain_within(self, seconds: float) -> None:
        until = self.loop.now + seconds
        if self._drain_until is not None:
            self._drain_until = min(self._drain_until, until)
            return
        self._drain_until = until
        self.loop.add_periodic(self._drain, lambda: self.loop.now + DRAIN_CHECK_INTERVAL)
        self.entrance.close()
        self.rendezvous.homes.leave()
        if self._worker_pool is not None:
            self._worker_pool.stop_restarting()

    def _drain(self) -> None:
        assert self._drain_until is not None
        idle = not len(self.admission) and not self.rendezvous.homes.busy
        if idle or self.loop.now >= self._drain_until + FLUSH_TIME:
            self.loop.stop()
        elif self.loop.now >= self._drain_until and not self._tunnels_ending:
            self._tunnels_ending = True
            self._finish({State.TUNNEL})

    def _finish(self, states: set[State]) -> None:
        """End the connections in one of these states, a few in each round."""
        self.loop.call_for_each(self.connections(), partial(_finish_in, states))


def _finish_in(states: set[State], connection: SocketConnection) -> None:
    if connection.session.state in states:  # a waiting connect may be a tunnel by now
        connection.finish(CloseReason.SHUTDOWN)
