"""Listeners, pending connects and tunnel ends by key: decisions without sockets or time.

The registry stores listeners, pending connects and tunnel ends as hashable ids of any type.

    listen(K)     the newest listener of K replaces an older one, and takes over its pending connects
    connect(K)    the connect waits for K's listener, present or not; or it is refused
    accept(C)     the oldest connect from C to the accepting key; or why there is no tunnel

A connect that is accepted, rejected or evicted stays until `remove_connect`.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from operator import itemgetter
from typing import Generic, NamedTuple, Optional, TypeVar, Union

from offset_common.counts import count_down
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits

L = TypeVar("L", bound=Hashable)
P = TypeVar("P", bound=Hashable)
T = TypeVar("T", bound=Hashable)
Pair = tuple[bytes, bytes]


class Connect(NamedTuple):
    """A pending connect.

    Args:
        source: the key that connects.
        target: the key that it connects to.
        address: the prefix of its peer's address.
    """

    source: bytes
    target: bytes
    address: str


class Fullest(NamedTuple):
    """The highest counts of any one key: tunnel ends, pending connects from it and for its listener."""

    tunnels: int
    pending: int
    pending_for: int


class Registry(Generic[L, P, T]):
    """The listeners, pending connects and tunnel ends of a relay.

    Args:
        limits: how much one key may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._listeners: dict[bytes, L] = {}
        self._connects: dict[P, Connect] = {}
        # The ids of a dict are in the order of arrival.
        self._of_pair: dict[Pair, dict[P, None]] = {}
        self._of_target: dict[bytes, dict[P, None]] = {}
        self._of_source: Counter[bytes] = Counter()
        self._tunnel_ends: dict[T, bytes] = {}
        self._tunnels_of_key: Counter[bytes] = Counter()

    def __len__(self) -> int:
        """Return the number of listeners, pending connects and tunnel ends."""
        return len(self._listeners) + len(self._connects) + len(self._tunnel_ends)

    def change_limits(self, limits: Limits) -> None:
        """Change the limits. Listeners, connects and tunnel ends over a new limit stay."""
        self._limits = limits

    def listener_of(self, key: bytes) -> Optional[L]:
        """Return the listener of `key`, or None."""
        return self._listeners.get(key)

    def listen(self, listener: L, key: bytes) -> tuple[Optional[L], list[P]]:
        """Make `listener` the listener of `key`; return the one it replaced and all pending connects."""
        replaced = self._listeners.get(key)
        self._listeners[key] = listener
        return replaced, self.pending_for(key)

    def pending_for(self, key: bytes) -> list[P]:
        """Return the connects that wait for the listener of `key`."""
        return list(self._of_target.get(key, ()))

    def has_pending(self, key: bytes) -> bool:
        """Return whether a connect waits for the listener of `key`."""
        return key in self._of_target

    def unattended(self) -> list[P]:
        """Return the connects that wait for absent listeners: the oldest of each address first."""
        of_address: Counter[str] = Counter()
        in_turn: list[tuple[int, P]] = []
        for each, connect in self._connects.items():
            if connect.target not in self._listeners:
                of_address[connect.address] += 1
                in_turn.append((of_address[connect.address], each))
        return [each for _, each in sorted(in_turn, key=itemgetter(0))]

    def fullest(self) -> Fullest:
        """Return the highest counts of any one key."""
        return Fullest(
            max(self._tunnels_of_key.values(), default=0),
            max(self._of_source.values(), default=0),
            max(map(len, self._of_target.values()), default=0),
        )

    def connect(self, pending: P, connect: Connect) -> Union[CloseReason, tuple[Optional[L], Optional[P]]]:
        """Let `pending` wait; return its listener, or None, and the connect to evict; or why it is refused.

        If too many connects wait for one listener, the newest of the address with the most is evicted; if
        that is the new one, it is refused.
        """
        if self._of_source[connect.source] >= self._limits.pending_per_key:
            return CloseReason.LIMIT_PENDING
        if self._has_all_tunnels(connect.source):
            return CloseReason.LIMIT_TUNNELS
        evicted: Optional[P] = None
        if len(self._of_target.get(connect.target, ())) >= self._limits.pending_per_listener:
            evicted = self._newest_of_most(connect)
            if evicted is None:
                return CloseReason.LIMIT_PENDING
        self._connects[pending] = connect
        self._of_pair.setdefault((connect.source, connect.target), {})[pending] = None
        self._of_target.setdefault(connect.target, {})[pending] = None
        self._of_source[connect.source] += 1
        return self._listeners.get(connect.target), evicted

    def accept(self, key: bytes, source: bytes) -> Union[CloseReason, P]:
        """Return the oldest connect from `source` to `key`, or why there is no tunnel."""
        pending = self.oldest_connect(source, key)
        if pending is None:
            return CloseReason.NO_PENDING_CONNECT
        if self._has_all_tunnels(key):
            return CloseReason.LIMIT_TUNNELS
        return pending

    def oldest_connect(self, source: bytes, target: bytes) -> Optional[P]:
        """Return the oldest connect from `source` that waits for the listener of `target`, or None."""
        return next(iter(self._of_pair.get((source, target), ())), None)

    def remove_connect(self, pending: P) -> Optional[L]:
        """Forget `pending`; return the listener that it waited for, or None."""
        connect = self._connects.pop(pending, None)
        if connect is None:
            return None
        _remove(self._of_pair, (connect.source, connect.target), pending)
        _remove(self._of_target, connect.target, pending)
        count_down(self._of_source, connect.source)
        return self._listeners.get(connect.target)

    def remove_listener(self, listener: L, key: bytes) -> list[P]:
        """Forget `listener`; return the connects that waited for it, none if it was replaced."""
        if self._listeners.get(key) is not listener:
            return []
        del self._listeners[key]
        pending = self.pending_for(key)
        for each in pending:
            self.remove_connect(each)
        return pending

    def take(self, waiting: Sequence[P]) -> list[tuple[P, Connect]]:
        """Remove connects; return each with its details."""
        taken = [(each, self._connects[each]) for each in waiting]
        for each in waiting:
            self.remove_connect(each)
        return taken

    def add_tunnel_end(self, end: T, key: bytes) -> None:
        """Count a tunnel end of `key`."""
        self._tunnel_ends[end] = key
        self._tunnels_of_key[key] += 1

    def remove_tunnel_end(self, end: T) -> None:
        """Forget `end`, if it is a tunnel end."""
        key = self._tunnel_ends.pop(end, None)
        if key is not None:
            count_down(self._tunnels_of_key, key)

    def _has_all_tunnels(self, key: bytes) -> bool:
        """Return whether `key` may have no more tunnels, if all its pending connects are accepted."""
        return self._tunnels_of_key[key] + self._of_source[key] >= self._limits.tunnels_per_key

    def _newest_of_most(self, new: Connect) -> Optional[P]:
        """Return the newest connect of the address with the most for a listener; None if that is `new`."""
        waiting = self._of_target[new.target]
        counts = Counter(self._connects[each].address for each in waiting)
        counts[new.address] += 1
        address, _ = max(counts.items(), key=lambda item: (item[1], item[0] == new.address))
        if address == new.address:
            return None
        return next(each for each in reversed(waiting) if self._connects[each].address == address)


K = TypeVar("K")


def _remove(table: dict[K, dict[P, None]], key: K, pending: P) -> None:
    table[key].pop(pending)
    if not table[key]:
        del table[key]
