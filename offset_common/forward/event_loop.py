"""The event loop: sockets, timers, and calls from other threads. Everything in it runs in one thread."""

from __future__ import annotations

import heapq
import itertools
import selectors
import socket
import time
from collections import deque
from contextlib import suppress
from typing import Callable, Protocol

from offset_common.threads import start_thread

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE


class Watcher(Protocol):
    """The object that the loop calls for a socket."""

    def on_ready(self, events: int) -> None:
        """Read or write: `events` is READ, WRITE or both. An exception here becomes an `on_failure`."""

    def on_failure(self, error: Exception) -> None:
        """End this connection, because `on_ready` raised an exception."""


class Timer:
    """A call at a later time, which can be cancelled.

    Args:
        call: the function to call.
    """

    def __init__(self, call: Callable[[], object]) -> None:
        self._call = call
        self._cancelled = False

    def cancel(self) -> None:
        """Cancel the call."""
        self._cancelled = True

    def fire(self) -> None:
        """Make the call, unless it was cancelled."""
        if not self._cancelled:
            self._call()


class EventLoop:
    """Runs in the thread that calls `run`. Other threads may call only `call_soon_threadsafe`."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._events: dict[socket.socket, int] = {}
        self._calls: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()  # of timers that fire at the same time
        self._stopping = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_reader.setblocking(False)
        self._wake_writer.setblocking(False)
        self._selector.register(self._wake_reader, READ)

    @property
    def wake_descriptor(self) -> int:
        """A descriptor that wakes the loop when a byte is written to it."""
        return self._wake_writer.fileno()

    def watch(self, sock: socket.socket, events: int, watcher: Watcher) -> None:
        """Call a watcher when its socket is ready for any of the events; with 0, stop watching."""
        before = self._events.get(sock, 0)
        if events == before:
            return
        if not events:
            self._selector.unregister(sock)
            del self._events[sock]
            return
        if before:
            self._selector.modify(sock, events, watcher)
        else:
            self._selector.register(sock, events, watcher)
        self._events[sock] = events

    def call_soon_threadsafe(self, call: Callable[[], object]) -> None:
        """Call a function in the loop, from any thread."""
        self._calls.append(call)
        # A full buffer also wakes the loop; a closed socket means that the loop has ended.
        with suppress(BlockingIOError, OSError):
            self._wake_writer.send(b"\0")

    def call_later(self, seconds: float, call: Callable[[], object]) -> Timer:
        """Call a function after a number of seconds."""
        timer = Timer(call)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def in_thread(self, name: str, work: Callable[[], Callable[[], object]]) -> None:
        """Do blocking work in a thread of its own; then call its result in the loop.

        Args:
            name: the thread's name.
            work: returns what to call in the loop. It handles all of its own errors.

        Raises:
            OSError: the system allows no more threads.
        """
        start_thread(lambda: self.call_soon_threadsafe(work()), f"offset {name}")

    def stop(self) -> None:
        """Make `run` return."""
        self._stopping = True

    def run(self) -> None:
        """Run until `stop`; it can be called again."""
        self._stopping = False
        while not self._stopping:
            for key, events in self._selector.select(self._seconds_to_wait()):
                if key.data is None:
                    self._wake_reader.recv(4096)
                elif key.fileobj in self._events:  # not closed in this round
                    self._call_watcher(key.data, events)
            now = time.monotonic()
            while self._timers and self._timers[0][0] <= now:
                heapq.heappop(self._timers)[2].fire()
            for _ in range(len(self._calls)):
                self._calls.popleft()()

    def close(self) -> None:
        """Free the descriptors, after `run` has returned."""
        self._selector.close()
        self._wake_reader.close()
        self._wake_writer.close()

    def _seconds_to_wait(self) -> float:
        if self._calls:
            return 0.0
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else 3600.0

    @staticmethod
    def _call_watcher(watcher: Watcher, events: int) -> None:
        try:
            watcher.on_ready(events)
        except Exception as error:
            watcher.on_failure(error)
