"""Start-time fair queueing by address, then by connection: the one that has used the least goes next.

An address that keeps a thousand connections busy gets the same share of the processor as an address with
one. The waiting connections of an address are in two groups: *light* ones, whose turns are short and leave no
work, and *busy* ones.

    light groups of all addresses --> connections
    busy groups of all addresses  --> connections

The start tag of a group is what its address has used so far, in seconds; that of a connection is what it has
used while it was not light. The smallest start tag goes next, but light groups have a *lead*: they go first
while their address has not used much more than the next busy one. So a small message waits neither for a
thousand busy neighbours nor for the long turns of a hundred addresses.

The use of an address is raised to the *virtual time* when it wakes: the smallest start tag at the last turn.
So idling earns no credit.

Source: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

LONG_TURN = 0.001  # seconds
LEAD = 0.005  # seconds by which an address may be ahead in use while its light turns still go first


class Group:
    """The light or the busy connections of one address that wait."""

    __slots__ = ("queued", "virtual_time", "waiting")

    def __init__(self) -> None:
        self.queued = False  # it waits, or is being served
        self.virtual_time = 0.0  # the start tag of the connection that went last
        self.waiting: list[tuple[float, int, Any]] = []  # a heap of start tag, sequence, connection


class AddressFlow:
    """The flow of one address."""

    __slots__ = ("__weakref__", "busy", "light", "used")

    def __init__(self) -> None:
        self.used = 0.0  # seconds
        self.light = Group()
        self.busy = Group()

    def group(self, light: bool) -> Group:
        """Return the group of the light or of the busy connections."""
        return self.light if light else self.busy


class QueueEntry:
    """A connection or a job in a fair queue.

    Args:
        address: the flow of its address, from `FairQueue.address`.
    """

    __slots__ = ("_address", "_long", "_used", "light", "queued")

    def __init__(self, address: AddressFlow) -> None:
        self._address = address
        self._long = False  # its last turn was long
        self._used = 0.0  # seconds used, while it is busy
        self.light = False  # its turns should stay short
        self.queued = False  # it waits for a turn


E = TypeVar("E", bound=QueueEntry)


class FairQueue(Generic[E]):
    """Entries that wait for their turn. An address is forgotten with its last entry.

    Args:
        newest_first: of entries with equal start tags, the newest goes first, not the oldest.
    """

    def __init__(self, newest_first: bool = False) -> None:
        self._sequence = itertools.count(step=-1 if newest_first else 1)
        self._group_sequence = itertools.count()  # orders groups with equal start tags
        # Heaps of start tag, sequence, group.
        self._light: list[tuple[float, int, Group]] = []
        self._busy: list[tuple[float, int, Group]] = []
        self._virtual_time = 0.0
        self.waiting = 0  # entries
        self._addresses: WeakValueDictionary[str, AddressFlow] = WeakValueDictionary()

    def address(self, name: str) -> AddressFlow:
        """Return the flow of the address `name`, for the entries of its connections."""
        flow = self._addresses.get(name)
        if flow is None:
            flow = self._addresses[name] = AddressFlow()
        return flow

    def light_waiting(self, entry: E) -> int:
        """Return how many light entries of the address of `entry` wait."""
        return len(entry._address.light.waiting)

    def push(self, entry: E) -> None:
        """Queue `entry` for a turn; if it is already queued, it keeps its place."""
        if entry.queued:
            return
        address = entry._address
        group = address.group(entry.light)
        entry.queued = True
        entry._used = max(entry._used, group.virtual_time)
        heappush(group.waiting, (entry._used, next(self._sequence), entry))
        self.waiting += 1
        if not address.light.queued and not address.busy.queued:
            address.used = max(address.used, self._virtual_time)
        if not group.queued:
            self._enqueue(address, group)

    def pop(self) -> E:
        """Remove and return the entry whose turn it is; call `charge` before the next `pop`."""
        busy = self._busy
        heap = self._light or busy
        least = min(heap[0][0], busy[0][0]) if busy else heap[0][0]
        if heap[0][0] > least + LEAD:
            heap = busy
        self._virtual_time = least
        _, _, group = heappop(heap)
        entry: E
        group.virtual_time, _, entry = heappop(group.waiting)
        entry.queued = False
        self.waiting -= 1
        return entry

    def charge(self, entry: E, seconds: float, busy: bool = False) -> None:
        """Count the cost of a turn of `entry`.

        Args:
            entry: from `pop`.
            seconds: the cost.
            busy: whether the turn left work, which makes the entry busy even if its turns are short.
        """
        long = seconds > LONG_TURN
        busy |= long and entry._long  # a single long turn may be one large message
        entry._long = long
        address = entry._address
        address.used += seconds
        group = address.group(entry.light)
        group.queued = False
        if group.waiting:
            self._enqueue(address, group)
        entry._used = entry._used + seconds if busy and not entry.light else 0.0
        entry.light = not busy

    def _enqueue(self, address: AddressFlow, group: Group) -> None:
        group.queued = True
        heap = self._light if group is address.light else self._busy
        heappush(heap, (address.used, next(self._group_sequence), group))
