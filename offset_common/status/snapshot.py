"""The state of a relay, as the event loop provides it: plain values that any thread may read."""

from __future__ import annotations

from typing import NamedTuple, Optional

from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.homes import FleetView
from offset_common.relay.lifecycle import State
from offset_common.relay.totals import Traffic

MAX_HEALTHY_SHARE = 0.95  # of a limit; over that, /healthz reports that the relay is full

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

    @property
    def exhausted(self) -> bool:
        """Whether too little is left for more clients."""
        return self.used > self.limit * MAX_HEALTHY_SHARE


Row = tuple[bytes, PeerAddress, str, float, int, int, int]
"""One connection: the peer's key (empty until it is proven), its address, its role, when it was accepted
(seconds of the system's clock), bytes received, bytes sent, and bytes that the peer has not read.

A plain tuple: there may be ten thousand, and most are never looked at.
"""


class Health(NamedTuple):
    """The facts about a relay that need no walk over its connections."""

    draining: bool
    limits: tuple[Use, ...]


class Census(NamedTuple):
    """The result of a walk over all connections.

    Args:
        roles: connections by role.
        queued: bytes that peers have not read.
        traffic: bytes since startup, including those of ended connections.
        limits: all limits, with their use.
        keys: authenticated connections of each key.
        addresses: connections of each IPv4 address or IPv6 prefix.
        attempts: connections accepted or refused since startup.
        ended: connections that ended or were refused, since startup, by reason.
        tunnels: tunnels created since startup.
        handshakes: handshakes completed since startup.
        bugs: connections that an error in the relay has ended since startup.
        waiting_for_buffers: connections that are not read until there is memory.
        rows: every connection if they were requested; otherwise empty.
        fleet: the fleet that the relay belongs to, if there is one.
    """

    roles: dict[str, int]
    queued: int
    traffic: Traffic
    limits: tuple[Use, ...]
    keys: dict[bytes, int]
    addresses: dict[str, int]
    attempts: int
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
        loop_delay: seconds that the event loop took to start it.
        health: the facts that need no walk over the connections.
        census: the result of a walk over the connections, or None if it was not requested.
    """

    taken_at: float
    loop_delay: float
    health: Health
    census: Optional[Census]
