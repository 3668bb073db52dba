"""The selectors loop: one thread that owns every connection from its adoption to its end.

Other threads may call `adopt` and nothing else; a byte through a socketpair wakes the loop.

Waking up is what an idle relay mostly does. Members from whom nothing urgent can come doze: they have a
selector of their own, which is looked at once a second, when keepalives are due as well.
"""

from __future__ import annotations

import gc
import math
import selectors
import socket
import time
from collections import deque
from typing import Any, Callable, Optional, Protocol

from offset_common.relay.deadlines import Deadlines

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE
LONGEST_WAIT = 60.0  # seconds
CROWD_MEMORY = 0.1  # seconds
MANY_READY = 16  # members ready at once: so many wait for each other anyway, whatever each may do
GARBAGE_THRESHOLD = 20_000  # objects made, and not freed, between two searches for cycles
DOZE_TICK = 1.0  # seconds; the keepalive's own tick (section 6 of docs/protocol.md)


def _spare_garbage_collector() -> None:
    """Let the search for cycles leave alone what lives as long as the process, and be rare.

    A handshake makes some hundred objects and no cycle; by default each second one would start a search.
    """
    gc.freeze()
    gc.set_threshold(GARBAGE_THRESHOLD, 20, 20)


class Member(Protocol):
    """What the loop calls: a connection, or a listening socket."""

    def on_ready(self, mask: int) -> None:
        """Do what the socket is ready for; must not raise."""

    def on_deadline(self) -> None:
        """Do what is due; must not raise."""


class _WakeUp:
    """The reading end of the wake-up socketpair, as a member of the loop."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def on_ready(self, mask: int) -> None:
        try:
            self._sock.recv(4096)
        except BlockingIOError:
            pass

    def on_deadline(self) -> None:
        """Never comes: nothing is scheduled for it."""


class Loop:
    """Waits for sockets and deadlines, and calls their members.

    Args:
        clock: seconds, growing steadily.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.now = clock()
        self.deadlines: Deadlines[Member] = Deadlines()
        self.after_round: list[
            Callable[[], None]
        ] = []  # called once a round, for work that is done in batches
        self.next_time: list[Callable[[], Optional[float]]] = []  # when those want to be called at the latest
        self.no_memory: Callable[[], bool] = lambda: False  # makes room after a MemoryError, if it can
        self._selector = selectors.DefaultSelector()
        self._doze_selector = selectors.DefaultSelector()
        self._dozing = 0
        self._next_doze_look = math.inf
        self._adopted: deque[Callable[[], None]] = deque()
        self._stopped = False
        self._a_few = False  # members are ready in this round
        self._crowded_until = self.now
        self._awake = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._wake_up = _WakeUp(self._wake_reader)
        self.register(self._wake_reader, READ, self._wake_up)

    @property
    def wake_descriptor(self) -> int:
        """A descriptor that wakes the loop when a byte is written to it, for signal.set_wakeup_fd."""
        return self._wake_writer.fileno()

    def register(self, sock: socket.socket, mask: int, member: Member) -> None:
        """Call `member` when `sock` is ready."""
        self._selector.register(sock, mask, member)

    def modify(self, sock: socket.socket, mask: int, member: Member) -> None:
        """Change what `member` is called for."""
        self._selector.modify(sock, mask, member)

    def unregister(self, sock: socket.socket) -> None:
        """Do not watch `sock` any more."""
        self._selector.unregister(sock)

    def doze(self, sock: socket.socket, member: Member) -> None:
        """Watch `sock`, which is watched, only once a second from now on."""
        self._selector.unregister(sock)
        self._doze_selector.register(sock, READ, member)
        self._dozing += 1
        if self._next_doze_look == math.inf:
            self._next_doze_look = math.floor(self.now) + DOZE_TICK

    def rouse(self, sock: socket.socket) -> None:
        """Do not watch `sock`, which dozes, any more."""
        self._doze_selector.unregister(sock)
        self._dozing -= 1

    @property
    def crowded(self) -> bool:
        """Whether somebody with little to do was among a few others, a moment ago: each should be short."""
        return self.now < self._crowded_until

    def little_to_do(self) -> None:
        """Take note that the member that was called just now is done with all that there was."""
        if self._a_few:
            self._crowded_until = self.now + CROWD_MEMORY

    def soon(self, task: Callable[[], None]) -> None:
        """Run `task` in the next round."""
        self._adopted.append(task)

    def adopt(self, task: Callable[[], None]) -> None:
        """Run `task` in the loop's thread; the one method that other threads may call."""
        self.soon(task)
        if not self._awake:
            self._awake = True
            self.wake()

    def wake(self) -> None:
        """End the loop's present wait."""
        try:
            self._wake_writer.send(b"\0")
        except OSError:
            pass  # it is full of wake-ups already, or the loop is closed and nobody sleeps

    def stop(self) -> None:
        """Let `run` return after the present round."""
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        _spare_garbage_collector()
        while not self._stopped:
            try:
                self.run_round()
            except MemoryError:
                # What was ready still is: the next round takes it up.
                if not self.no_memory():
                    raise

    def run_round(self) -> None:
        """Wait once, and do all that is ready and due."""
        events = self._selector.select(self._time_to_wait())
        self.now = self._clock()
        self._a_few = 1 < len(events) < MANY_READY and (
            len(events) > 2 or all(key.data is not self._wake_up for key, _ in events)
        )
        for key, mask in events:
            member: Any = key.data
            # A member that came before it in this round may have closed it; it knows.
            member.on_ready(mask)
        if self.now >= self._next_doze_look:
            self._look_at_dozing()
        self._run_adopted()
        for due in self.deadlines.take_due(self.now):
            due.on_deadline()
        for task in self.after_round:
            task()

    def close(self) -> None:
        """Give back the loop's descriptors."""
        self._selector.close()
        self._doze_selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _look_at_dozing(self) -> None:
        for key, mask in self._doze_selector.select(0):
            member: Any = key.data
            member.on_ready(mask)
        self._next_doze_look = math.floor(self.now) + DOZE_TICK if self._dozing else math.inf

    def _run_adopted(self) -> None:
        self._awake = False
        # What these adopt in their turn waits for the next round: nobody keeps the others waiting.
        for _ in range(len(self._adopted)):
            self._adopted.popleft()()

    def _time_to_wait(self) -> float:
        if self._adopted:
            return 0.0
        wait = LONGEST_WAIT
        when = self.deadlines.next_time()
        if when is not None:
            wait = min(wait, when - self._clock())
        if self._dozing:
            wait = min(wait, self._next_doze_look - self._clock())
        for next_time in self.next_time:
            when = next_time()
            if when is not None:
                wait = min(wait, when - self._clock())
        return max(0.0, wait)
