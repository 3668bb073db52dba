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

_sequence = itertools.count()  # equal start tags are served in the order of arrival


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
            heappush(parent.waiting, (self.used, next(_sequence), self))

    def charge(self, seconds: float, parent: Flow) -> None:
        """Count the cost of a turn, and requeue if a child is waiting."""
        self.used += seconds
        self.queued = False
        if self.waiting:
            self.enqueue(parent)


class AddressFlow(Flow):
    """The flow of one address.

    Args:
        root: the flow of all addresses.
    """

    __slots__ = ("__weakref__", "busy", "light", "root")

    def __init__(self, root: Flow) -> None:
        super().__init__()
        self.root = root
        self.light = Flow()
        self.busy = Flow()


class QueueEntry:
    """A connection or a job in a fair queue.

    Args:
        address: the flow of its address, from `FairQueue.address`.
    """

    __slots__ = ("_address", "_flow", "_long", "_queued", "_used")

    def __init__(self, address: AddressFlow) -> None:
        self._address = address
        self._flow = address.busy
        self._long = False  # its last turn was long
        self._queued = False
        self._used = 0.0  # seconds used, while in the busy flow

    @property
    def queued(self) -> bool:
        """Whether it is waiting for a turn."""
        return self._queued

    @property
    def light(self) -> bool:
        """Whether it is light: its turns should stay short."""
        return self._flow is self._address.light

    def _push(self, sequence: int) -> None:
        flow = self._flow
        self._queued = True
        self._used = max(self._used, flow.virtual_time)
        heappush(flow.waiting, (self._used, sequence, self))
        flow.enqueue(self._address)
        self._address.enqueue(self._address.root)

    def _charge(self, seconds: float, more: bool) -> None:
        long = seconds > LONG_TURN
        busy = more or (long and self._long)  # the system may have interrupted a single long turn
        self._long = long
        flow = self._flow
        light = flow is self._address.light
        flow.charge(seconds / LIGHT_WEIGHT if light else seconds, self._address)
        self._address.charge(seconds, self._address.root)
        if busy and not light:
            self._used += seconds
        else:
            self._used = 0.0
            self._flow = self._address.busy if busy else self._address.light


E = TypeVar("E", bound=QueueEntry)


class FairQueue(Generic[E]):
    """Entries that wait for their turn. An address is forgotten with its last entry.

    Args:
        newest_first: of entries with equal start tags, the newest goes first, not the oldest.
    """

    def __init__(self, newest_first: bool = False) -> None:
        self._sequence = itertools.count(step=-1 if newest_first else 1)
        self._root = Flow()
        self._waiting = 0
        self._addresses: WeakValueDictionary[str, AddressFlow] = WeakValueDictionary()

    def __bool__(self) -> bool:
        """Return whether an entry is waiting."""
        return self._waiting > 0

    def address(self, name: str) -> AddressFlow:
        """Return the flow of the address `name`, for the entries of its connections."""
        flow = self._addresses.get(name)
        if flow is None:
            flow = self._addresses[name] = AddressFlow(self._root)
        return flow

    def push(self, entry: E) -> None:
        """Queue `entry` for a turn; if it is already queued, it keeps its place."""
        if not entry._queued:
            entry._push(next(self._sequence))
            self._waiting += 1

    def pop(self) -> E:
        """Remove and return the entry whose turn it is; call `charge` before the next `pop`."""
        flow: Any = self._root
        while isinstance(flow, Flow):
            flow.virtual_time, _, flow = heappop(flow.waiting)
        entry: E = flow
        entry._queued = False
        self._waiting -= 1
        return entry

    def charge(self, entry: E, seconds: float, more: bool = False) -> None:
        """Count the cost of a turn of `entry`.

        Args:
            entry: from `pop`.
            seconds: the cost.
            more: whether the turn left work.
        """
        entry._charge(seconds, more)
