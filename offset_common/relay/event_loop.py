"""The event loop: one thread that owns every connection outside the handshake pool.

    while running:
        poll the selector             ready connections join the fair queue
        run turns for a few ms        the connection that has used the least goes first (fair_queue.py)
        run call_soon, and some deadlines

One pass is a *round*. In a *turn*, one connection writes, reads and handles a bounded amount. fair_queue.py
explains which connections are *light* and which are *busy*.

Other threads call only `call_soon_threadsafe`; a byte through a socketpair wakes the loop.

Idle listeners can wait: a selector of their own is polled once a second (coarse polling), because waking up
is most of the work of an idle relay.
"""

from __future__ import annotations

import gc
import math
import selectors
import socket
import sys
import time
from collections import deque
from collections.abc import Iterable
from functools import partial
from time import perf_counter, thread_time
from typing import Callable, Optional, Protocol, TypeVar, Union

from offset_common.relay.deadlines import Deadlines
from offset_common.relay.fair_queue import FairQueue, QueueEntry

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
LONGEST_WAIT = 60.0  # seconds
POLL_INTERVAL = 0.003  # seconds of turns between two polls
LONGEST_POLL_INTERVAL = 0.01  # seconds of turns after a slow poll
TASKS_IN_ROUND = 128  # tasks of call_soon; after a flood of handshakes, hundreds wait
EACH_IN_ROUND = 32  # items of call_for_each, and deadlines: closing thousands at once would take a second
CROWD = 32  # waiting light connections of one address: together, their turns take several ms
COARSE_INTERVAL = 1.0  # seconds; the keepalive's own tick (section 6 of docs/protocol.md)
SWITCH_INTERVAL = 0.001  # seconds that a handshake thread may keep the interpreter from the loop
GARBAGE_THRESHOLD = 20_000  # allocations between two searches for reference cycles


class Handler(Protocol):
    """A listening socket or an internal channel: called at once, outside the fair queue."""

    def on_ready(self, events: int) -> None:
        """Handle the readiness of the socket; must not raise."""


class Timed(Protocol):
    """Anything that can have a deadline."""

    def on_deadline(self) -> None:
        """Handle the expired deadline; must not raise."""


class ReadyEntry(QueueEntry):
    """A connection in the loop: accumulates readiness until its turn."""

    __slots__ = ("_events",)

    def __init__(self, loop: EventLoop, address: str) -> None:
        super().__init__(loop.turns.address(address))
        self._events = 0

    def on_turn(self, events: int) -> bool:
        """Handle the events since the last turn; return whether the entry is busy. Must not raise."""
        raise NotImplementedError

    def has_much_input(self) -> bool:
        """Return whether more has arrived than a small message. Must not raise."""
        raise NotImplementedError


Watcher = Union[Handler, ReadyEntry]
T = TypeVar("T")


class EventLoop:
    """Waits for sockets and deadlines, and calls their owners.

    Args:
        clock: returns the time in seconds, as time.monotonic does.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = self.started_at = clock()  # `now` is the time at which this round's wait ended
        self._latest_light = 0  # id of the light connection that last had input; it may be gone
        self._latest_light_at = self._other_light_at = -math.inf
        self.deadlines: Deadlines[Timed] = Deadlines()
        self.turns: FairQueue[ReadyEntry] = FairQueue()
        self._periodic: list[tuple[Callable[[], None], Callable[[], float]]] = []
        self._selector = selectors.DefaultSelector()
        self._coarse_selector = selectors.DefaultSelector()
        self._next_coarse_poll = math.inf
        self._tasks: deque[Callable[[], object]] = deque()
        self._gradual_tasks: deque[Callable[[], object]] = deque()
        self._serving: Optional[ReadyEntry] = None
        self._serve_again = False  # the connection being served wants another turn
        self._stopped = False
        self._waiting = False  # `run_once` waits, or is about to; a thread must wake it
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self.register(self._wake_reader, READ, self)

    @property
    def wake_descriptor(self) -> int:
        """A descriptor that wakes the loop when a byte is written to it, for signal.set_wakeup_fd."""
        return self._wake_writer.fileno()

    def add_periodic(self, task: Callable[[], None], next_time: Callable[[], float]) -> None:
        """Call `task` in every round; `next_time` returns when the next round must begin at the latest."""
        self._periodic.append((task, next_time))

    def register(self, sock: socket.socket, events: int, watcher: Watcher) -> None:
        """Watch `sock`; when it is ready, `watcher` is called or gets a turn."""
        self._selector.register(sock, events, watcher)

    def modify(self, sock: socket.socket, events: int, watcher: Watcher) -> None:
        """Change what `sock` is watched for."""
        self._selector.modify(sock, events, watcher)

    def unregister(self, sock: socket.socket) -> None:
        """Stop watching `sock`."""
        self._selector.unregister(sock)

    def register_coarse(self, sock: socket.socket, entry: ReadyEntry) -> None:
        """Poll `sock` for input once a second."""
        self._coarse_selector.register(sock, READ, entry)
        if self._next_coarse_poll == math.inf:
            self._next_coarse_poll = math.floor(self.now) + COARSE_INTERVAL

    def unregister_coarse(self, sock: socket.socket) -> None:
        """Stop the coarse polling of `sock`."""
        self._coarse_selector.unregister(sock)

    def request_turn(self, entry: ReadyEntry, events: int = 0) -> None:
        """Queue `entry` for a turn in which it handles `events`."""
        entry._events |= events
        if entry is self._serving:
            self._serve_again = True
        elif not entry.queued:
            if entry.light and self.turns.light_waiting(entry) > CROWD and entry.has_much_input():
                # Thousands may wake up with a lot of input. If each had a light turn, the next small message
                # would wait for all of them.
                entry.light = False
            self.turns.push(entry)

    def last_light_turn_beside(self, entry: ReadyEntry) -> float:
        """Return when a light connection other than `entry` last had input, in seconds."""
        return self._other_light_at if id(entry) == self._latest_light else self._latest_light_at

    def call_soon(self, task: Callable[[], None]) -> None:
        """Run `task` after the current turns; a task that another task adds runs in the next round."""
        self._tasks.append(task)

    def call_for_each(self, items: Iterable[T], task: Callable[[T], object]) -> None:
        """Call `task` with each item, a few in each round: there may be thousands."""
        self._gradual_tasks.extend(partial(task, item) for item in items)

    def call_soon_threadsafe(self, task: Callable[[], None]) -> None:
        """Run `task` in the loop's thread. This is the only method that other threads may call."""
        self._tasks.append(task)
        if self._waiting:
            self._waiting = False  # one byte is enough for all threads
            self.wake()

    def wake(self) -> None:
        """Wake the loop if it is waiting."""
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            pass  # the socket is already full of wake-ups, or the loop is closed

    def on_ready(self, events: int) -> None:
        """Receive a wake-up."""
        try:
            self._wake_reader.recv(4096)
        except BlockingIOError:
            pass

    def stop(self) -> None:
        """Make `run` return after the current round."""
        self._stopped = True

    def run(self) -> None:
        """Run rounds until `stop`."""
        sys.setswitchinterval(SWITCH_INTERVAL)
        if hasattr(gc, "freeze"):  # not in PyPy, which collects garbage in another way
            gc.freeze()  # exclude long-lived objects from garbage collection
            gc.set_threshold(GARBAGE_THRESHOLD, 20, 20)
        while not self._stopped:
            self.run_once()

    def run_once(self) -> None:
        """Run one round: wait for something to happen, and handle it."""
        self._waiting = True  # before `_tasks` is examined: a thread may add a task in between
        wait = self._time_to_wait()
        started = perf_counter()
        events = self._selector.select(wait)
        self._waiting = False
        if wait:
            started = perf_counter()
        self.now = self._clock()
        self._collect(events)
        polling = perf_counter() - started
        if self.now >= self._next_coarse_poll and not self._gradual_tasks:
            # All results of the previous coarse poll have been queued. A connection that ends before its turn
            # does nothing in it.
            ready = self._coarse_selector.select(0)
            self.call_for_each(ready, lambda each: self.request_turn(each[0].data, each[1]))
            watched = len(self._coarse_selector.get_map()) > 0
            self._next_coarse_poll = math.floor(self.now) + COARSE_INTERVAL if watched else math.inf
        if self.turns.waiting:
            # With thousands of ready connections, polling is slow. It should take a fifth of the time, but
            # readiness must be noticed soon. The coarse poll runs once a second, and does not count.
            self._run_turns(max(POLL_INTERVAL, min(4 * polling, LONGEST_POLL_INTERVAL)))
        # Tasks that these add run in the next round.
        _run_first(self._tasks, TASKS_IN_ROUND)
        _run_first(self._gradual_tasks, EACH_IN_ROUND)
        for expired in self.deadlines.take_expired(self.now, EACH_IN_ROUND):
            expired.on_deadline()
        for task, _ in self._periodic:
            task()

    def close(self) -> None:
        """Release the loop's descriptors."""
        self._selector.close()
        self._coarse_selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _collect(self, events: list[tuple[selectors.SelectorKey, int]]) -> None:
        for key, mask in events:
            watcher: Watcher = key.data
            if isinstance(watcher, ReadyEntry):
                self.request_turn(watcher, mask)
            elif self._watches(key):
                watcher.on_ready(mask)

    def _watches(self, key: selectors.SelectorKey) -> bool:
        """Return whether a socket is still watched: handling another one may have ended that."""
        present = self._selector.get_map().get(key.fd)
        return present is not None and present.data is key.data

    def _run_turns(self, seconds: float) -> None:
        turns = self.turns
        end = perf_counter() + seconds
        # A turn's cost is processor time: it must not seem long because other programs or threads ran.
        used = thread_time()
        while turns.waiting:
            entry = self._serving = turns.pop()
            self._serve_again = False
            events, entry._events = entry._events, 0
            light = entry.light and events & READ
            busy = entry.on_turn(events)
            if light:
                self._note_light_turn(entry)
            self._serving = None
            before, used = used, thread_time()
            turns.charge(entry, used - before, busy)
            if self._serve_again:
                turns.push(entry)  # after `charge`, which may move it to another flow
            if perf_counter() >= end:
                break

    def _note_light_turn(self, entry: ReadyEntry) -> None:
        if id(entry) != self._latest_light:
            self._latest_light, self._other_light_at = id(entry), self._latest_light_at
        self._latest_light_at = self.now

    def _time_to_wait(self) -> float:
        if self._tasks or self._gradual_tasks or self.turns.waiting:
            return 0.0
        first = min(self._next_coarse_poll, self.deadlines.next_time())
        for _, next_time in self._periodic:
            first = min(first, next_time())
        return min(LONGEST_WAIT, max(0.0, first - self._clock()))


def _run_first(tasks: deque[Callable[[], object]], most: int) -> None:
    for _ in range(min(most, len(tasks))):
        tasks.popleft()()
