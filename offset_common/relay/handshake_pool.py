"""Handshakes in a pool of threads, on blocking sockets.

A handshake costs four public-key operations (140 us), too much for the event loop. A thread takes a
connection whose peer has sent a whole frame, handles the frame, and waits for the next one: for 5 ms
(sockets.py), or not at all while other jobs are queued. If that brings no whole frame, the connection goes
back to the event loop with its state, and returns when its peer has sent the rest. So peers that are silent
or send single bytes occupy no thread, and a job ends soon: the peer's part of a handshake has three frames.

By default the pool has one thread. More of them finish no more handshakes, because Python runs one thread at
a time, but they take more of this time from the event loop.

Jobs are queued fairly by address (fair_queue.py): an address that floods the relay waits behind its own jobs.
Within an address, the newest job goes first: under overload, some handshakes finish in time instead of none.

A thread owns the socket from `submit` until `done` is called, and touches nothing else.
"""

from __future__ import annotations

import queue
import socket
import threading
import time
from functools import partial
from typing import Callable, Optional

from offset_common.channel.connection import Connection
from offset_common.errors import ServiceError
from offset_common.identity import Identity
from offset_common.relay.fair_queue import AddressFlow, FairQueue, QueueEntry
from offset_common.threads import start_thread

READ_SIZE = 4096  # bytes; both handshake messages of a peer are under 400
STACK_SIZE = 512 * 1024  # bytes of address space for each thread
JOB_COST = 1.0  # for the fair queue: every job costs the same


class HandshakeJob(QueueEntry):
    """One connection on its way through the pool.

    Args:
        address: the flow of its peer's address in the queue.
        sock: the connected socket.
        protocol: the protocol state, which has received a frame and not handled it.
        done: called with the job in the event loop, when the handshake is complete, has failed or waits for
            the peer.
    """

    __slots__ = ("done", "error", "protocol", "received", "sent", "sock")

    def __init__(
        self,
        address: AddressFlow,
        sock: socket.socket,
        protocol: Connection,
        done: Callable[[HandshakeJob], None],
    ) -> None:
        super().__init__(address)
        self.sock = sock
        self.protocol = protocol
        self.done = done
        self.error: Optional[BaseException] = None
        self.received = 0  # bytes, by `run`
        self.sent = 0

    def run(self, waits: Callable[[], bool]) -> None:
        """Continue the handshake until it ends or needs more input; the attributes hold the result.

        Args:
            waits: returns whether other jobs are queued.
        """
        try:
            self._shake_hands(waits)
        except Exception as error:  # the event loop ends the connection for it
            self.error = error

    def _shake_hands(self, waits: Callable[[], bool]) -> None:
        protocol = self.protocol
        while not protocol.needs_data():
            protocol.next_event(time.monotonic())
            data = protocol.data_to_send()
            if data:
                self.sock.sendall(data)  # the kernel accepts these few hundred bytes at once
                self.sent += len(data)
            if protocol.established:
                return
            try:
                received = self.sock.recv(READ_SIZE, socket.MSG_DONTWAIT if waits() else 0)
            except BlockingIOError:
                return
            self.received += len(received)
            protocol.receive_data(received)  # nothing if the peer has closed; the event loop will see that


class HandshakePool:
    """Threads that compute handshakes.

    Args:
        identity: the key pair that this side proves.
        threads: the number of threads.
        call_soon_threadsafe: runs a task in the event loop.

    Raises:
        ServiceError: the system cannot start that many threads.
    """

    def __init__(
        self, identity: Identity, threads: int, call_soon_threadsafe: Callable[[Callable[[], None]], None]
    ) -> None:
        self._identity = identity
        self._call_soon_threadsafe = call_soon_threadsafe
        self._queue: FairQueue[HandshakeJob] = FairQueue(newest_first=True)
        # A lock, and a token for each job: with a Condition instead, handshakes took 8 % longer.
        self._lock = threading.Lock()  # for the queue
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._closing = False
        self._threads: list[threading.Thread] = []
        previous = threading.stack_size(STACK_SIZE)
        try:
            for number in range(threads):
                self._threads.append(start_thread(self._work, f"handshake-{number}"))
        except (OSError, MemoryError):
            self.close()
            raise ServiceError(
                f"the system started {len(self._threads)} of {threads} handshake threads; raise its limits "
                "on memory and processes, or choose fewer with --handshake-threads"
            ) from None
        finally:
            threading.stack_size(previous)

    def new_protocol(self, now: float) -> Connection:
        """Return the protocol state of an accepted connection whose version frame has been sent."""
        return Connection(self._identity, now, version_sent=True)

    def submit(
        self, sock: socket.socket, protocol: Connection, address: str, done: Callable[[HandshakeJob], None]
    ) -> None:
        """Queue a job by its peer's address prefix; a thread owns the socket until `done` is called."""
        with self._lock:
            self._queue.push(HandshakeJob(self._queue.address(address), sock, protocol, done))
        self._tokens.put(None)

    def close(self) -> None:
        """End the threads after their current jobs; queued jobs are dropped."""
        self._closing = True
        for _ in self._threads:
            self._tokens.put(None)
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _work(self) -> None:
        while True:
            self._tokens.get()
            if self._closing:
                return
            with self._lock:
                job = self._queue.pop()
                self._queue.charge(job, JOB_COST)
            job.run(lambda: self._queue.waiting > 0)
            self._call_soon_threadsafe(partial(job.done, job))
            del job  # otherwise an idle thread keeps its last job alive
