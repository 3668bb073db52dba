"""The state of a relay, as the event loop hands it out: plain values that any thread may read."""

from __future__ import annotations

from typing import NamedTuple, Optional

from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.homes import FleetView
from offset_common.relay.lifecycle import State
from offset_common.relay.status import Traffic

MAX_HEALTHY_SHARE = 0.95  # of a limit; over that, /healthz reports that the relay is full

ROLES = {
    State.HANDSHAKE: "handshake",
    State.AWAITING_INIT: "awaiting_init",
    State.LISTENER: "listener",
    State.PENDING_CONNECT: "pending_connect",
    State.TUNNEL: "tunnel",
    State.FLUSHING: "closing",
    State.LINGERING: "closing",
}
"""The name of a connection's state in metrics and on the page."""


class Use(NamedTuple):
    """How much of one limit is used.

    Args:
        name: of the limit, for programs.
        title: of the limit, for people.
        used: as much as is used of it; the most of any address or key if it is a limit for one.
        limit: the limit.
        unit: "bytes", or an empty string for a number of things.
        for_all: whether it is a limit for all connections together, which decides about the health.
    """

    name: str
    title: str
    used: int
    limit: int
    unit: str = ""
    for_all: bool = False

    @property
    def exhausted(self) -> bool:
        """Whether too little is left for more clients."""
        return self.used > self.limit * MAX_HEALTHY_SHARE


Row = tuple[bytes, PeerAddress, State, float, int, int, int]
"""One connection: the peer's key (empty until it is proven), its address, the state, when it was accepted
(seconds of the system's clock), bytes received, bytes sent, and bytes that the peer has not read.

A plain tuple: there may be ten thousand, and nobody looks at most of them.
"""


class Health(NamedTuple):
    """The facts about a relay that need no look at its connections."""

    draining: bool
    limits: tuple[Use, ...]


class Census(NamedTuple):
    """The result of a walk over all connections.

    Args:
        roles: connections by role.
        queued: bytes that peers have not read.
        traffic: bytes since the start, of ended connections too.
        limits: all of them, with the use.
        keys: authenticated connections of each key.
        addresses: connections of each IPv4 address or IPv6 prefix.
        ended: connections that ended or were refused, since the start, by reason.
        tunnels: tunnels made since the start.
        handshakes: completed since the start.
        bugs: connections that an error in the relay has ended, since the start.
        waiting_for_buffers: connections that are not read until there is memory.
        rows: every connection if it was asked for; otherwise empty.
        fleet: the fleet that the relay belongs to, if there is one.
    """

    roles: dict[str, int]
    queued: int
    traffic: Traffic
    limits: tuple[Use, ...]
    keys: dict[bytes, int]
    addresses: dict[str, int]
    ended: dict[CloseReason, int]
    tunnels: int
    handshakes: int
    bugs: int
    waiting_for_buffers: int
    rows: list[Row]
    fleet: Optional[FleetView] = None

    @property
    def connections(self) -> int:
        """The number of connections."""
        return sum(self.roles.values())


class Snapshot(NamedTuple):
    """The state of a relay.

    Args:
        taken_at: seconds of the system's clock.
        loop_delay: seconds that the event loop took to begin with it.
        health: what is known without looking at the connections.
        census: what is known after that, or None if it was not asked for.
    """

    taken_at: float
    loop_delay: float
    health: Health
    census: Optional[Census]
