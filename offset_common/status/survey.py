"""Makes snapshots inside the event loop: a few connections in each round, so that nobody waits for it.

A walk over ten thousand connections takes more than ten milliseconds. It is cut into steps of at most
CONNECTIONS_IN_STEP connections; the loop serves its sockets between them.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter, defaultdict
from itertools import islice
from typing import Callable, Optional, Protocol, Union

from offset_common.errors import OffsetError
from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.status import Described, Traffic
from offset_common.status.snapshot import ROLES, Census, Group, Health, Row, Snapshot, Use

CONNECTIONS_IN_STEP = 64


class Detail(enum.IntEnum):
    """How much to find out; each includes the one before."""

    HEALTH = 1
    CENSUS = 2
    ROWS = 3


class Surveyed(Described, Protocol):
    """The parts of a relay that a survey reads."""

    ended_traffic: Traffic

    @property
    def limits(self) -> Limits:
        """Return its limits."""

    @property
    def draining(self) -> bool:
        """Return whether it is about to stop."""


Result = Union[Snapshot, OffsetError]


class Survey:
    """One snapshot in the making, in the event loop's thread, where an exception would end the relay.

    Args:
        relay: what to look at; nothing of it is changed.
        detail: how much to find out.
        done: called once with the snapshot, or with the reason why there is none.
    """

    def __init__(self, relay: Surveyed, detail: Detail, done: Callable[[Result], None]) -> None:
        self._relay = relay
        self._detail = detail
        self._done = done
        self._requested_at = time.monotonic()
        self._loop_delay = 0.0
        self._walk: Optional[_Walk] = None

    def start(self) -> None:
        """Begin; call this in the loop's thread."""
        self._loop_delay = time.monotonic() - self._requested_at
        try:
            if self._detail is Detail.HEALTH:
                self._finish(None)
            else:
                self._walk = _Walk(self._relay, self._detail is Detail.ROWS)
                self._step()
        except Exception as error:
            self._fail(error)

    def _step(self) -> None:
        assert self._walk is not None
        try:
            if self._walk.step():
                self._relay.loop.call_soon(self._step)
            else:
                self._finish(self._walk.result())
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        log_event("no status", logging.ERROR, collapse="status", exc_info=error)
        self._done(OffsetError("the status cannot be read; the log says why"))

    def _finish(self, census: Optional[Census]) -> None:
        health = Health(self._relay.draining, common_limits(self._relay))
        self._done(Snapshot(time.time(), self._loop_delay, health, census))


def common_limits(relay: Surveyed) -> tuple[Use, ...]:
    """Return the use of the limits for all connections together, which are counted all the time."""
    limits, admission = relay.limits, relay.admission
    return (
        Use("connections", "connections", len(admission), limits.connections, for_all=True),
        Use(
            "unproven",
            "connections without a proven key",
            admission.unauthenticated,
            limits.unauthenticated,
            for_all=True,
        ),
        Use("buffers", "buffers", relay.buffers.used, limits.buffers, "bytes", for_all=True),
    )


class _Walk:
    """Looks at every connection that was there at the beginning.

    Totals stay true while connections end meanwhile: the bytes of those that have ended are taken at the
    beginning, and each of the others adds its own once, whether it has ended since or not. So a total never
    goes back from one walk to the next.
    """

    def __init__(self, relay: Surveyed, with_rows: bool) -> None:
        self._relay = relay
        self._rows: Optional[list[Row]] = [] if with_rows else None
        self._left = iter(relay.admission.all())
        self._received, self._sent = relay.ended_traffic
        self._ended = dict(relay.ended)
        self._states: Counter[State] = Counter()
        self._queued = 0
        self._addresses: defaultdict[str, Group] = defaultdict(Group)
        self._keys: defaultdict[bytes, Group] = defaultdict(Group)
        self._tunnel_ends: Counter[bytes] = Counter()  # by key
        self._pending: Counter[bytes] = Counter()  # by key
        # The most of one address, key or listener.
        self._most_of_address = self._most_of_key = self._most_tunnels = self._most_pending = 0
        self._most_for_listener = 0
        self._wall_clock = time.time() - relay.loop.now  # what to add to the loop's time

    def step(self) -> bool:
        """Look at some connections; return whether there are more."""
        batch = list(islice(self._left, CONNECTIONS_IN_STEP))
        for connection in batch:
            self._look_at(connection)
        return len(batch) == CONNECTIONS_IN_STEP

    def _look_at(self, connection: SocketConnection) -> None:
        received, sent = connection.received, connection.sent
        self._received += received
        self._sent += sent
        state, key = connection.session.state, connection.key
        if state is State.CLOSED:
            return
        queued = len(connection.output)
        self._states[state] += 1
        self._queued += queued
        group = self._addresses[connection.address.prefix]
        group.add(received, sent, queued)
        self._most_of_address = max(self._most_of_address, group.connections)
        if key:
            group = self._keys[key]
            group.add(received, sent, queued)
            self._most_of_key = max(self._most_of_key, group.connections)
            self._count_role(state, key)
        if self._rows is not None:
            since = connection.started_at + self._wall_clock
            self._rows.append(Row(key, connection.address.text, ROLES[state], since, received, sent, queued))

    def _count_role(self, state: State, key: bytes) -> None:
        if state is State.LISTENER:
            waiting = self._relay.rendezvous.registry.count_pending(key)
            self._most_for_listener = max(self._most_for_listener, waiting)
        elif state is State.PENDING_CONNECT:
            self._pending[key] += 1
            self._most_pending = max(self._most_pending, self._pending[key])
        elif state is not State.AWAITING_INIT:
            self._tunnel_ends[key] += 1
            self._most_tunnels = max(self._most_tunnels, self._tunnel_ends[key])

    def result(self) -> Census:
        """Return what the walk found."""
        relay = self._relay
        roles = dict.fromkeys(ROLES.values(), 0)
        for state, count in self._states.items():
            roles[ROLES[state]] += count
        return Census(
            roles=roles,
            queued=self._queued,
            traffic=Traffic(self._received, self._sent),
            limits=(*common_limits(relay), *self._single_limits()),
            keys=self._keys,
            addresses=self._addresses,
            ended=self._ended,
            tunnels=relay.rendezvous.joined,
            handshakes=relay.completed_handshakes,
            bugs=relay.bugs,
            waiting_for_buffers=relay.buffers.waiting,
            rows=self._rows or [],
        )

    def _single_limits(self) -> tuple[Use, ...]:
        """Return the limits for one address, key or listener, with the use of the one that uses most."""
        limits = self._relay.limits
        return (
            Use(
                "address_connections",
                "connections of one address",
                self._most_of_address,
                limits.connections_per_address,
            ),
            Use("key_connections", "connections of one key", self._most_of_key, limits.connections_per_key),
            Use("key_tunnels", "tunnels of one key", self._most_tunnels, limits.tunnels_per_key),
            Use("key_pending", "pending connects of one key", self._most_pending, limits.waiting_per_key),
            Use(
                "listener_pending",
                "pending connects for one listener",
                self._most_for_listener,
                limits.waiting_per_listener,
            ),
        )
