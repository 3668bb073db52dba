"""Admission control: which connections the operator's policy and the limits let in.

A connection is *unsettled* until it has a role. Only unsettled connections outside the handshake pool are
evicted. At the limit for all or for handshakes, the address with the most of them loses one. At an address
limit, that address does. It loses the one that could have been evicted for the longest time. If there is
none, the new connection is refused. So an address that floods the relay evicts its own connections, and a
peer on a slow line at another address keeps its place.

Handshakes in the pool do not count toward their limit. Otherwise one address could fill it with
connections that cannot be evicted, and keep all others out.
"""

from __future__ import annotations

from collections import Counter
from typing import Optional

from offset_common.counts import count_down
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.limits import Limits
from offset_common.relay.policy import Policy
from offset_common.relay.totals import Totals


class _EvictionOrder:
    """The evictable connections of each address, first added first, and the address with the most."""

    def __init__(self) -> None:
        self._connections: dict[str, dict[SocketConnection, None]] = {}  # of each address
        self._by_count: dict[int, dict[str, None]] = {}  # the addresses with that many connections
        self._largest = 0  # of these counts

    def add(self, connection: SocketConnection) -> None:
        """Add a connection as the newest of its address."""
        address = connection.address.prefix
        connections = self._connections.setdefault(address, {})
        connections[connection] = None
        self._move(address, len(connections) - 1, len(connections))

    def discard(self, connection: SocketConnection) -> None:
        """Remove `connection`, if it is there."""
        address = connection.address.prefix
        connections = self._connections.get(address, {})
        if connection in connections:
            del connections[connection]
            self._move(address, len(connections) + 1, len(connections))
            if not connections:
                del self._connections[address]

    def oldest_of(self, address: str) -> Optional[SocketConnection]:
        """Return the oldest connection of `address`, or None."""
        return next(iter(self._connections.get(address, ())), None)

    def oldest_of_most(self) -> Optional[SocketConnection]:
        """Return the oldest connection of the address with the most, or None."""
        return self.oldest_of(next(iter(self._by_count[self._largest]))) if self._largest else None

    def _move(self, address: str, before: int, after: int) -> None:
        if before:
            del self._by_count[before][address]
            if not self._by_count[before]:
                del self._by_count[before]
        if after:
            self._by_count.setdefault(after, {})[address] = None
        if after > self._largest or self._largest not in self._by_count:
            self._largest = after  # counts change by one


class Admission:
    """Lets connections in, and counts them until they end.

    Args:
        limits: in total, per address and per key.
        policy: may refuse an address or a key.
        totals: counts and logs refused connections.
    """

    def __init__(self, limits: Limits, policy: Policy, totals: Totals) -> None:
        self._limits = limits
        self._policy = policy
        self._totals = totals
        self._connections: dict[SocketConnection, None] = {}
        self._of_address: Counter[str] = Counter()
        self._of_key: Counter[bytes] = Counter()
        self._evictable = _EvictionOrder()  # unsettled, and not in the handshake pool
        self._unauthenticated: set[SocketConnection] = set()  # not counted for a key
        self._in_pool: set[SocketConnection] = set()  # those of them that the handshake pool has

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._connections)

    def change_limits(self, limits: Limits) -> None:
        """Change the limits. Connections over a new limit stay; new ones are refused."""
        self._limits = limits

    @property
    def unauthenticated(self) -> int:
        """The number of connections that count toward the limit of handshakes."""
        return len(self._unauthenticated) - len(self._in_pool)

    def by_address(self) -> dict[str, int]:
        """Return how many connections each address has."""
        return dict(self._of_address)

    def by_key(self) -> dict[bytes, int]:
        """Return how many authenticated connections each key has."""
        return dict(self._of_key)

    def all(self) -> list[SocketConnection]:
        """Return all connections."""
        return list(self._connections)

    def make_room(self, address: PeerAddress) -> Optional[CloseReason]:
        """Make room for a connection, by evicting another if necessary; return why it is refused, or None."""
        reason = self._policy.refuse_address(address.host) or self._find_place(address.prefix)
        if reason is not None:
            self._totals.count_refusal(address, reason)
        return reason

    def evict(self) -> bool:
        """Evict a connection of the address that has the most; return whether there was one."""
        oldest = self._evictable.oldest_of_most()
        if oldest is not None:
            oldest.close(CloseReason.EVICTED)
        return oldest is not None

    def enter(self, connection: SocketConnection) -> None:
        """Count a new connection, which is not authenticated."""
        self._connections[connection] = None
        self._of_address[connection.address.prefix] += 1
        self._unauthenticated.add(connection)
        self._evictable.add(connection)

    def protect(self, connection: SocketConnection, protected: bool) -> None:
        """Protect `connection` from eviction while the handshake pool has it, or stop protecting it."""
        if protected:
            self._evictable.discard(connection)
            self._in_pool.add(connection)
        else:
            self._in_pool.discard(connection)
            self._evictable.add(connection)

    def authenticate(self, connection: SocketConnection) -> bool:
        """Count a connection whose key is proven, or close it; return whether it stays."""
        reason = self._policy.refuse_peer(connection)
        if reason is None and self._of_key.get(connection.key, 0) >= self._limits.connections_per_key:
            reason = CloseReason.LIMIT_KEY
        if reason is not None:
            connection.close(reason)
            return False
        self._unauthenticated.remove(connection)
        self._of_key[connection.key] += 1
        return True

    def settle(self, connection: SocketConnection) -> None:
        """Never evict `connection` from now on: it has a role."""
        self._evictable.discard(connection)

    def leave(self, connection: SocketConnection) -> None:
        """Forget a connection that ended."""
        del self._connections[connection]
        count_down(self._of_address, connection.address.prefix)
        self._evictable.discard(connection)
        self._in_pool.discard(connection)
        if connection in self._unauthenticated:
            self._unauthenticated.remove(connection)
        else:
            count_down(self._of_key, connection.key)

    def _find_place(self, address: str) -> Optional[CloseReason]:
        """Evict a connection if a limit is reached; return that limit if there is none to evict."""
        if self._of_address.get(address, 0) >= self._limits.connections_per_address:
            oldest, full = self._evictable.oldest_of(address), CloseReason.LIMIT_ADDRESS
        elif (
            len(self._connections) >= self._limits.connections
            or self.unauthenticated >= self._limits.unauthenticated
        ):
            oldest, full = self._evictable.oldest_of_most(), CloseReason.LIMIT_TOTAL
        else:
            return None
        if oldest is None:
            return full
        oldest.close(CloseReason.EVICTED)
        return None
