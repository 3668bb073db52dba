"""Who listens, who waits and who is joined.

The registry knows connections by any hashable id and decides; what it decides comes back as
actions, in the order in which they must be done. It knows no sockets and no time, except that
a listener's takeover is timed by its caller.

    listen(K)    --> K's older listener is closed: the newest proven listener wins
    connect(K)   --> the connection waits, and K's listener is told; or it is closed
    accept(C)    --> the oldest waiting connect from C to the accepting key is joined; or closed
    reject(C)    --> that waiting connect is closed
    closed(id)   --> the waiting connects of a listener are closed; a joined partner is finished

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple, Optional, TypeVar, Union

from offset_common.relay.limits import Limits
from offset_common.relay.reasons import CloseReason

Id = Hashable
Pair = tuple[bytes, bytes]
T = TypeVar("T")


class Announce(NamedTuple):
    """Send IncomingConnection{source} to the listener."""

    listener: Id
    source: bytes


class Join(NamedTuple):
    """Make the two connections a tunnel; what the connect sent early goes to the acceptor first."""

    connect: Id
    accept: Id


class Close(NamedTuple):
    """End the connection for that reason."""

    connection: Id
    reason: CloseReason


Action = Union[Announce, Join, Close]


class Waiting(NamedTuple):
    """A connect that waits: whose it is, and for whom."""

    source: bytes
    target: bytes


class Registry:
    """The relay's memory of roles.

    Args:
        limits: how much one key may hold.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._listeners: dict[bytes, Id] = {}
        self._listening_key: dict[Id, bytes] = {}
        self._waiting: dict[Id, Waiting] = {}
        # The ids of a dict are in the order in which they began to wait.
        self._waiting_for_pair: dict[Pair, dict[Id, None]] = {}
        self._waiting_for_target: dict[bytes, dict[Id, None]] = {}
        self._waiting_of_source: dict[bytes, int] = {}
        self._tunnel_key: dict[Id, bytes] = {}
        self._tunnels_of_key: dict[bytes, int] = {}

    def __len__(self) -> int:
        """The connections that have a role here."""
        return len(self._listening_key) + len(self._waiting) + len(self._tunnel_key)

    def listener_of(self, key: bytes) -> Optional[Id]:
        """Return the connection that listens for `key`, or None."""
        return self._listeners.get(key)

    def somebody_waits_for(self, key: bytes) -> bool:
        """Say whether a connect waits for the listener of `key`."""
        return key in self._waiting_for_target

    def listen(self, connection: Id, key: bytes) -> list[Action]:
        """Make `connection` the listener of `key`."""
        older = self._listeners.get(key)
        actions: list[Action] = []
        if older is not None:
            # Taken out first, so that closing it does not close what waits: that is the new listener's.
            del self._listening_key[older]
            actions.append(Close(older, CloseReason.REPLACED))
        self._listeners[key] = connection
        self._listening_key[connection] = key
        # What waited for the older listener was announced to it, perhaps to nobody alive: say it again.
        for waiting in self._waiting_for_target.get(key, ()):
            actions.append(Announce(connection, self._waiting[waiting].source))
        return actions

    def connect(self, connection: Id, source: bytes, target: bytes) -> list[Action]:
        """Let `connection`, of key `source`, wait for the listener of `target`."""
        listener = self._listeners.get(target)
        if listener is None:
            return [Close(connection, CloseReason.NO_LISTENER)]
        if self._waiting_of_source.get(source, 0) >= self._limits.waiting_per_key:
            return [Close(connection, CloseReason.LIMIT_WAITING)]
        if len(self._waiting_for_target.get(target, ())) >= self._limits.waiting_per_listener:
            return [Close(connection, CloseReason.LIMIT_WAITING)]
        if self._tunnels_of_key.get(source, 0) >= self._limits.tunnels_per_key:
            return [Close(connection, CloseReason.LIMIT_TUNNELS)]
        self._waiting[connection] = Waiting(source, target)
        self._waiting_for_pair.setdefault((source, target), {})[connection] = None
        self._waiting_for_target.setdefault(target, {})[connection] = None
        self._waiting_of_source[source] = self._waiting_of_source.get(source, 0) + 1
        return [Announce(listener, source)]

    def accept(self, connection: Id, key: bytes, source: bytes) -> list[Action]:
        """Join `connection`, of key `key`, with the oldest connect of `source` that waits for it."""
        waiting = self._oldest_waiting(source, key)
        if waiting is None:
            return [Close(connection, CloseReason.NO_WAITING_CONNECT)]
        if self._tunnels_of_key.get(key, 0) >= self._limits.tunnels_per_key:
            return [Close(connection, CloseReason.LIMIT_TUNNELS)]
        self._forget_waiting(waiting)
        self._add_tunnel_end(waiting, source)
        self._add_tunnel_end(connection, key)
        return [Join(waiting, connection)]

    def reject(self, connection: Id, source: bytes) -> list[Action]:
        """Close the oldest connect of `source` that waits for the listener `connection`."""
        key = self._listening_key.get(connection)
        waiting = None if key is None else self._oldest_waiting(source, key)
        if waiting is None:
            return []  # it may have given up while the rejection was on its way
        self._forget_waiting(waiting)
        return [Close(waiting, CloseReason.REJECTED)]

    def closed(self, connection: Id) -> list[Action]:
        """Forget `connection`, whatever its role was."""
        if connection in self._waiting:
            self._forget_waiting(connection)
        elif connection in self._tunnel_key:
            self._remove_tunnel_end(connection)
        elif connection in self._listening_key:
            return self._listener_closed(connection)
        return []

    def _listener_closed(self, connection: Id) -> list[Action]:
        # "When a listener's connection ends, its waiting connects are closed. Its tunnels live on." (7)
        key = self._listening_key.pop(connection)
        del self._listeners[key]
        waiting = list(self._waiting_for_target.get(key, ()))
        for each in waiting:
            self._forget_waiting(each)
        return [Close(each, CloseReason.LISTENER_ENDED) for each in waiting]

    def _oldest_waiting(self, source: bytes, target: bytes) -> Optional[Id]:
        return next(iter(self._waiting_for_pair.get((source, target), ())), None)

    def _forget_waiting(self, connection: Id) -> None:
        source, target = self._waiting.pop(connection)
        _remove(self._waiting_for_pair, (source, target), connection)
        _remove(self._waiting_for_target, target, connection)
        _count_down(self._waiting_of_source, source)

    def _add_tunnel_end(self, connection: Id, key: bytes) -> None:
        self._tunnel_key[connection] = key
        self._tunnels_of_key[key] = self._tunnels_of_key.get(key, 0) + 1

    def _remove_tunnel_end(self, connection: Id) -> None:
        _count_down(self._tunnels_of_key, self._tunnel_key.pop(connection))


def _remove(table: dict[T, dict[Id, None]], key: T, connection: Id) -> None:
    members = table[key]
    del members[connection]
    if not members:
        del table[key]


def _count_down(counts: dict[bytes, int], key: bytes) -> None:
    if counts[key] > 1:
        counts[key] -= 1
    else:
        del counts[key]
