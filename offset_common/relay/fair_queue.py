"""Start-time fair queueing by address, then by connection: the one that has used the least goes next.

An address that keeps a thousand connections busy gets the same share of the processor as an address with
one. Inside an address, *light* connections (their turns are short and leave no work) get four fifths
of the time and *busy* ones the rest, so a small message does not wait for a thousand busy neighbours.

    all --> addresses --> light, busy --> connections

Each of these is a flow. Its start tag is what it has used so far, in seconds, but at least the virtual time
of its parent, so idling earns no credit. The smallest start tag goes next, and becomes the parent's virtual
time. The time of the turn is then added to every flow on the path.

Source: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queueing", SIGCOMM 1996.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import Any, Generic, TypeVar
from weakref import WeakValueDictionary

LONG_TURN = 0.001  # seconds
LIGHT_WEIGHT = 4  # the share of light connections as a multiple of that of busy ones

_flow_sequence = itertools.count()  # of flows with equal start tags, the first to arrive goes first


class Flow:
    """A group of flows or entries with a share of its parent's time."""

    __slots__ = ("queued", "used", "virtual_time", "waiting")

    def __init__(self) -> None:
        self.queued = False  # in the parent's heap, or being served
        self.used = 0.0  # seconds
        self.virtual_time = 0.0  # the start tag of the child that went last
        self.waiting: list[tuple[float, int, Any]] = []  # a heap of start tag, sequence, child

    def enqueue(self, parent: Flow) -> None:
        """Join the waiting children of `parent`."""
        if not self.queued:
            self.queued = True
            self.used = max(self.used, parent.virtual_time)
            heappush(parent.waiting, (self.used, next(_flow_sequence), self))

    def charge(self, seconds: float, parent: Flow) -> None:
        """Count the cost of a turn, and requeue if a child is waiting."""
        self.used += seconds
        self.queued = False
        if self.waiting:
            self.enqueue(parent)


class AddressFlow(Flow):
    """The flow of one address."""

    __slots__ = ("__weakref__", "busy", "light")

    def __init__(self) -> None:
        super().__init__()
        self.light = Flow()
        self.busy = Flow()


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
        self._root = Flow()
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
        flow = address.light if entry.light else address.busy
        entry.queued = True
        entry._used = max(entry._used, flow.virtual_time)
        heappush(flow.waiting, (entry._used, next(self._sequence), entry))
        flow.enqueue(address)
        address.enqueue(self._root)
        self.waiting += 1

    def pop(self) -> E:
        """Remove and return the entry whose turn it is; call `charge` before the next `pop`."""
        flow: Any = self._root
        while isinstance(flow, Flow):
            flow.virtual_time, _, flow = heappop(flow.waiting)
        entry: E = flow
        entry.queued = False
        self.waiting -= 1
        return entry

    def charge(self, entry: E, seconds: float, more: bool = False) -> None:
        """Count the cost of a turn of `entry`.

        Args:
            entry: from `pop`.
            seconds: the cost.
            more: whether the turn left work.
        """
        long = seconds > LONG_TURN
        busy = more or (long and entry._long)  # a single long turn may be one large message
        entry._long = long
        address = entry._address
        if entry.light:
            address.light.charge(seconds / LIGHT_WEIGHT, address)
        else:
            address.busy.charge(seconds, address)
        address.charge(seconds, self._root)
        entry._used = entry._used + seconds if busy and not entry.light else 0.0
        entry.light = not busy
