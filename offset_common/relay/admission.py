"""Admission control: how many connections there may be in total, from one address and with one key.

A connection is *unsettled* until it has a role. Only unsettled connections outside the handshake pool are
evicted. At the total limit, the address with the most of them loses one. At an address limit, that address
does. It loses the one that was accepted, or left the handshake pool, longest ago. If there is none, the new
connection is refused. So an address that floods the relay evicts its own connections, and a peer on a slow
line at another address keeps its place.
"""

from __future__ import annotations

from collections import Counter
from typing import Generic, Optional, TypeVar, Union

from offset_common.counts import count_down
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits

C = TypeVar("C")


class _EvictionOrder(Generic[C]):
    """The evictable connections of each address, first added first, and the address with the most."""

    def __init__(self) -> None:
        self._connections: dict[str, dict[C, None]] = {}
        self._by_count: dict[int, dict[str, None]] = {}
        self._largest = 0

    def add(self, address: str, connection: C) -> None:
        """Add a connection as the newest of `address`."""
        connections = self._connections.setdefault(address, {})
        connections[connection] = None
        self._move(address, len(connections) - 1, len(connections))

    def discard(self, address: str, connection: C) -> None:
        """Remove `connection`, if it is there."""
        connections = self._connections.get(address, {})
        if connection in connections:
            del connections[connection]
            self._move(address, len(connections) + 1, len(connections))
            if not connections:
                del self._connections[address]

    def oldest_of(self, address: str) -> Optional[C]:
        """Return the oldest connection of `address`, or None."""
        return next(iter(self._connections.get(address, ())), None)

    def oldest_of_most(self) -> Optional[C]:
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


class Admission(Generic[C]):
    """Counts the connections of a relay, from acceptance to end.

    Args:
        limits: in total, per address and per key.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._connections: dict[C, str] = {}  # with their addresses
        self._of_address: Counter[str] = Counter()
        self._of_key: Counter[bytes] = Counter()
        self._keys: dict[C, bytes] = {}
        self._evictable: _EvictionOrder[C] = _EvictionOrder()  # unsettled, and not in the handshake pool
        self._unauthenticated: set[C] = set()

    def __len__(self) -> int:
        """Return the number of connections."""
        return len(self._connections)

    def change_limits(self, limits: Limits) -> None:
        """Change the limits. Connections over a new limit stay; new ones are refused."""
        self._limits = limits

    @property
    def unauthenticated(self) -> int:
        """The number of connections that have not finished the handshake."""
        return len(self._unauthenticated)

    def by_address(self) -> dict[str, int]:
        """Return how many connections each address has."""
        return dict(self._of_address)

    def by_key(self) -> dict[bytes, int]:
        """Return how many authenticated connections each key has."""
        return dict(self._of_key)

    def all(self) -> list[C]:
        """Return all connections."""
        return list(self._connections)

    def make_room(self, address: str) -> Union[CloseReason, C, None]:
        """Return None if a connection may enter, the connection to evict, or the reason for refusal."""
        if self._of_address[address] >= self._limits.connections_per_address:
            return self._evictable.oldest_of(address) or CloseReason.LIMIT_ADDRESS
        if (
            len(self._connections) >= self._limits.connections
            or len(self._unauthenticated) >= self._limits.unauthenticated
        ):
            return self._evictable.oldest_of_most() or CloseReason.LIMIT_TOTAL
        return None

    def next_to_evict(self) -> Optional[C]:
        """Return the next connection to evict, or None."""
        return self._evictable.oldest_of_most()

    def enter(self, connection: C, address: str) -> None:
        """Count a new connection, which is not authenticated."""
        self._connections[connection] = address
        self._of_address[address] += 1
        self._unauthenticated.add(connection)
        self._evictable.add(address, connection)

    def protect(self, connection: C, protected: bool) -> None:
        """Protect `connection` from eviction while the handshake pool has it, or stop protecting it."""
        address = self._connections[connection]
        if protected:
            self._evictable.discard(address, connection)
        else:
            self._evictable.add(address, connection)

    def authenticate(self, connection: C, key: bytes) -> Optional[CloseReason]:
        """Count a connection whose key is proven; return why it must be closed, or None."""
        self._unauthenticated.discard(connection)
        if self._of_key[key] >= self._limits.connections_per_key:
            return CloseReason.LIMIT_KEY
        self._of_key[key] += 1
        self._keys[connection] = key
        return None

    def settle(self, connection: C) -> None:
        """Never evict `connection` from now on: it has a role."""
        self._evictable.discard(self._connections[connection], connection)

    def leave(self, connection: C) -> None:
        """Forget a connection that ended."""
        address = self._connections.pop(connection)
        count_down(self._of_address, address)
        self._unauthenticated.discard(connection)
        self._evictable.discard(address, connection)
        key = self._keys.pop(connection, None)
        if key is not None:
            count_down(self._of_key, key)
