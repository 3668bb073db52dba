"""Make snapshots inside the event loop: a few connections in each round, so that no peer has to wait.

A walk over all connections is cut into steps of about 0.1 ms; the loop serves its sockets between them. The
result is plain values, which any thread may read.
"""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from collections.abc import Generator, Mapping, Sequence
from itertools import islice
from typing import Callable, NamedTuple, Optional, Protocol, Union

from offset_common.errors import OffsetError
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.homes import FleetView
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import log_event
from offset_common.relay.state_line import DescribedRelay
from offset_common.relay.totals import Traffic

CONNECTIONS_IN_STEP = 128
ROLES = tuple(dict.fromkeys(state.role for state in State if state is not State.CLOSED))


class Use(NamedTuple):
    """How much of one limit is used.

    Args:
        name: the limit's name, for programs.
        title: the limit's name, for people.
        used: how much is in use; if the limit is for one address or key, the highest of any.
        limit: the limit.
        unit: "bytes", or an empty string for a number of things.
        for_all: whether it is a limit for all connections together, which affects the health.
    """

    name: str
    title: str
    used: int
    limit: int
    unit: str = ""
    for_all: bool = False


Row = tuple[bytes, PeerAddress, str, float, int, int, int]
"""One connection: the peer's key (empty until it is proven), its address, its role, when it was accepted
(seconds of the system's clock), bytes received, bytes sent, and bytes that the peer has not read.

A plain tuple: there may be ten thousand, and most are never looked at.
"""


class Detail(enum.IntEnum):
    """How much to find out; each level includes the previous one."""

    HEALTH = 1  # what needs no walk over the connections
    SUMS = 2
    ROWS = 3


class Snapshot(NamedTuple):
    """The state of a relay. At Detail.HEALTH, the fields from `roles` on are empty.

    Args:
        taken_at: seconds of the system's clock.
        uptime: seconds since startup, whatever the system's clock did.
        loop_delay: seconds that the event loop took to start it.
        draining: whether the relay is about to stop.
        limits: the limits with their use; at Detail.HEALTH only those for all connections together.
        roles: connections by role.
        queued: bytes that peers have not read.
        traffic: bytes since startup, including those of ended connections.
        keys: authenticated connections of each key.
        addresses: connections of each IPv4 address or IPv6 prefix.
        attempts: connections accepted or refused since startup.
        ended: connections that ended or were refused, since startup, by reason.
        tunnels: tunnels created since startup.
        handshakes: handshakes completed since startup.
        bugs: connections that an error in the relay has ended since startup.
        waiting_for_buffers: connections that are not read until there is memory.
        rows: every connection, at Detail.ROWS.
        fleet: the fleet that the relay belongs to, if there is one.
    """

    taken_at: float
    uptime: float
    loop_delay: float
    draining: bool
    limits: tuple[Use, ...]
    roles: Mapping[str, int] = {}
    queued: int = 0
    traffic: Traffic = Traffic(0, 0)
    keys: Mapping[bytes, int] = {}
    addresses: Mapping[str, int] = {}
    attempts: int = 0
    ended: Mapping[CloseReason, int] = {}
    tunnels: int = 0
    handshakes: int = 0
    bugs: int = 0
    waiting_for_buffers: int = 0
    rows: Sequence[Row] = ()
    fleet: Optional[FleetView] = None

    @property
    def connections(self) -> int:
        """The number of connections."""
        return sum(self.roles.values())


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
        self._loop = relay.loop
        self._walk = _walk(relay, detail, time.monotonic())
        self._done = done

    def step(self) -> None:
        """Do a part of it; the loop continues in its next round."""
        try:
            next(self._walk)
        except StopIteration as end:
            self._done(end.value)
        except Exception as error:
            log_event("status failed", logging.ERROR, collapse="status", exc_info=error)
            self._done(OffsetError("the status cannot be read; the log says why"))
        else:
            self._loop.call_soon(self.step)


def _walk(relay: SurveyedRelay, detail: Detail, requested_at: float) -> Generator[None, None, Snapshot]:
    """Look at every connection that is open now, and return the snapshot; each step does a part of it.

    Totals stay correct if connections end meanwhile: what is known of ended connections is read at the
    beginning, and every other connection counts once, whether it has ended since or not. So a total never
    decreases from one walk to the next.
    """
    loop_delay = time.monotonic() - requested_at
    uptime = relay.loop.now - relay.loop.started_at
    if detail is Detail.HEALTH:
        return Snapshot(time.time(), uptime, loop_delay, relay.draining, _common_limits(relay))
    connections = relay.admission.all()
    (received, sent), queued = relay.totals.traffic, 0
    ended = dict(relay.totals.ended)
    roles: Counter[str] = Counter()
    rows: list[Row] = []
    clock = time.time() - relay.loop.now  # seconds to add to the loop's time
    left = iter(connections)
    while batch := list(islice(left, CONNECTIONS_IN_STEP)):
        received += sum([each.received for each in batch])
        sent += sum([each.sent for each in batch])
        queued += sum([each.output.size for each in batch])
        roles.update([each.session.state.role for each in batch])
        if detail is Detail.ROWS:
            rows += [_row(each, clock) for each in batch if not each.closed]
        yield
    keys, addresses = relay.admission.by_key(), relay.admission.by_address()
    return Snapshot(
        taken_at=time.time(),
        uptime=uptime,
        loop_delay=loop_delay,
        draining=relay.draining,
        limits=(*_common_limits(relay), *_single_limits(relay, keys, addresses)),
        roles={role: roles[role] for role in ROLES},
        queued=queued,
        traffic=Traffic(received, sent),
        keys=keys,
        addresses=addresses,
        attempts=len(connections) + sum(ended.values()),
        ended=ended,
        tunnels=relay.rendezvous.joined,
        handshakes=relay.rendezvous.authenticated,
        bugs=relay.totals.bugs,
        waiting_for_buffers=relay.buffers.waiting,
        rows=rows,
        fleet=relay.rendezvous.homes.view(),
    )


def _row(connection: SocketConnection, clock: float) -> Row:
    return (
        connection.key,
        connection.address,
        connection.session.state.role,
        connection.started_at + clock,
        connection.received,
        connection.sent,
        connection.output.size,
    )


def _common_limits(relay: SurveyedRelay) -> tuple[Use, ...]:
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
