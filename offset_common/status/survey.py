"""Make snapshots inside the event loop: a few connections in each round, so that no peer has to wait.

A walk over all connections is cut into steps of about 0.1 ms; the loop serves its sockets between them.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from itertools import islice
from typing import Callable, Optional, Protocol, Union

from offset_common.errors import OffsetError
from offset_common.relay.connection import SocketConnection
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.state_line import DescribedRelay
from offset_common.relay.totals import Traffic
from offset_common.status.snapshot import ROLES, Census, Health, Row, Snapshot, Use

CONNECTIONS_IN_STEP = 128


class Detail(enum.IntEnum):
    """How much to find out; each level includes the previous one."""

    HEALTH = 1
    CENSUS = 2
    ROWS = 3


class SurveyedRelay(DescribedRelay, Protocol):
    """The parts of a relay that a survey reads."""

    @property
    def limits(self) -> Limits:
        """Return the relay's limits."""

    @property
    def draining(self) -> bool:
        """Return whether the relay is about to stop."""


Result = Union[Snapshot, OffsetError]


class Survey:
    """One snapshot being made, in the event loop's thread, where an exception would end the relay.

    Args:
        relay: the relay, which is only read.
        detail: how much to find out.
        done: called once with the snapshot, or with the reason why there is none.
    """

    def __init__(self, relay: SurveyedRelay, detail: Detail, done: Callable[[Result], None]) -> None:
        self._relay = relay
        self._detail = detail
        self._done = done
        self._requested_at = time.monotonic()
        self._loop_delay = 0.0
        self._walk: Optional[_Walk] = None

    def start(self) -> None:
        """Start; call this in the loop's thread."""
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
        log_event("status failed", logging.ERROR, collapse="status", exc_info=error)
        self._done(OffsetError("the status cannot be read; the log says why"))

    def _finish(self, census: Optional[Census]) -> None:
        health = Health(self._relay.draining, common_limits(self._relay))
        self._done(Snapshot(time.time(), self._loop_delay, health, census))


def common_limits(relay: SurveyedRelay) -> tuple[Use, ...]:
    """Return the use of the limits for all connections together, which need no walk."""
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
    """Looks at every connection that was open at the beginning.

    Totals stay correct if connections end meanwhile: what is known of ended connections is read at the
    beginning, and every other connection counts once, whether it has ended since or not. So a total never
    decreases from one walk to the next.
    """

    def __init__(self, relay: SurveyedRelay, with_rows: bool) -> None:
        self._relay = relay
        self._with_rows = with_rows
        self._rows: list[Row] = []
        connections = relay.admission.all()
        self._left = iter(connections)
        self._received, self._sent = relay.totals.traffic
        self._queued = 0
        self._ended = dict(relay.totals.ended)
        self._attempts = len(connections) + sum(self._ended.values())
        self._roles: Counter[str] = Counter()
        self._wall_clock = time.time() - relay.loop.now  # seconds to add to the loop's time

    def step(self) -> bool:
        """Look at some connections; return whether there are more."""
        batch = list(islice(self._left, CONNECTIONS_IN_STEP))
        self._received += sum([connection.received for connection in batch])
        self._sent += sum([connection.sent for connection in batch])
        self._queued += sum([connection.output.size for connection in batch])
        self._roles.update([connection.session.state.role for connection in batch])
        if self._with_rows:
            self._rows += [self._row(connection) for connection in batch if not connection.closed]
        return len(batch) == CONNECTIONS_IN_STEP

    def _row(self, connection: SocketConnection) -> Row:
        return (
            connection.key,
            connection.address,
            connection.session.state.role,
            connection.started_at + self._wall_clock,
            connection.received,
            connection.sent,
            connection.output.size,
        )

    def result(self) -> Census:
        """Return what the walk found."""
        relay = self._relay
        keys, addresses = relay.admission.by_key(), relay.admission.by_address()
        return Census(
            roles={role: self._roles[role] for role in ROLES},
            queued=self._queued,
            traffic=Traffic(self._received, self._sent),
            limits=(*common_limits(relay), *_single_limits(relay, keys, addresses)),
            keys=keys,
            addresses=addresses,
            attempts=self._attempts,
            ended=self._ended,
            tunnels=relay.rendezvous.joined,
            handshakes=relay.rendezvous.authenticated,
            bugs=relay.totals.bugs,
            waiting_for_buffers=relay.buffers.waiting,
            rows=self._rows,
            fleet=relay.rendezvous.homes.view(),
        )


def _single_limits(
    relay: SurveyedRelay, keys: dict[bytes, int], addresses: dict[str, int]
) -> tuple[Use, ...]:
    """Return the limits for one address, key or listener, each with the highest use."""
    limits, fullest = relay.limits, relay.rendezvous.registry.fullest()
    most_of_address, most_of_key = max(addresses.values(), default=0), max(keys.values(), default=0)
    return (
        Use(
            "address_connections",
            "connections of one address",
            most_of_address,
            limits.connections_per_address,
        ),
        Use("key_connections", "connections of one key", most_of_key, limits.connections_per_key),
        Use("key_tunnels", "tunnels of one key", fullest.tunnels, limits.tunnels_per_key),
        Use("key_pending", "pending connects of one key", fullest.pending, limits.pending_per_key),
        Use(
            "listener_pending",
            "pending connects for one listener",
            fullest.pending_for,
            limits.pending_per_listener,
        ),
    )
