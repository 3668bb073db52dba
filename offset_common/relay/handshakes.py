"""Handshakes in a pool of threads, on blocking sockets.

A handshake is the only work of a relay that is always long for one message: four public-key operations,
140 us. A thread takes a connection whose peer has sent something, and blocks for what comes next. A
peer that keeps it waiting gives way: after `PATIENCE`, or at once where others queue, the connection
goes back to the loop's lobby with its state and returns when its peer has sent more. So silent peers
cost no thread, however many they are.
Of those who queue the newest is next: where more come than can be served, some are served at once
instead of all too late.

A thread owns the connection from `submit` until it calls `done`, and touches nothing else.

The sockets of the relay block, and have a time-out of their own in the kernel; the loop says with each
call that it does not want to wait (MSG_DONTWAIT). So a connection changes hands without a system call.
"""

from __future__ import annotations

import queue
import socket
import struct
import threading
import time
from collections import deque
from typing import Callable, Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted
from offset_common.errors import PeerError, ServiceError
from offset_common.identity import Identity

PATIENCE = 0.02  # seconds that a thread waits for a peer in the middle of a handshake
READ_SIZE = 4096  # bytes; both handshake messages of a peer are under 400
STACK_SIZE = 512 * 1024  # bytes of address space for each thread


_TIME_OUT = struct.pack("ll", int(PATIENCE), int(PATIENCE % 1 * 1_000_000))


def prepare_socket(sock: socket.socket) -> None:
    """Let blocking calls on `sock` end after `PATIENCE`."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIME_OUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIME_OUT)


class HandshakeJob:
    """One connection on its way through the pool.

    Args:
        sock: the connected socket.
        owner: whatever the caller knows the connection by.
        deadline: the time, of time.monotonic, at which the handshake is over or has failed.
        connection: what an earlier turn in the pool left, or None.
    """

    __slots__ = (
        "connection",
        "deadline",
        "ended",
        "error",
        "established",
        "owner",
        "received",
        "sent",
        "sock",
    )

    def __init__(
        self, sock: socket.socket, owner: object, deadline: float, connection: Optional[Connection] = None
    ) -> None:
        self.sock = sock
        self.owner = owner
        self.deadline = deadline
        self.connection = connection
        self.established = False
        self.ended = False  # the peer closed
        self.error: Optional[BaseException] = None
        self.received = 0  # bytes of this turn
        self.sent = 0


class HandshakePool:
    """Threads that bring connections through the handshake.

    Args:
        identity: the relay's.
        threads: how many.
        done: called in a pool thread with the job, when the handshake is established, has failed
            or gives way.

    Raises:
        ServiceError: the system does not start so many threads.
    """

    def __init__(self, identity: Identity, threads: int, done: Callable[[HandshakeJob], None]) -> None:
        self._identity = identity
        self._done = done
        self._jobs: deque[HandshakeJob] = deque()
        self._tokens: queue.SimpleQueue[bool] = queue.SimpleQueue()  # True for each job, False ends a thread
        self._threads: list[threading.Thread] = []
        previous = threading.stack_size(STACK_SIZE)
        try:
            for number in range(threads):
                thread = threading.Thread(target=self._work, name=f"handshake-{number}", daemon=True)
                thread.start()
                self._threads.append(thread)
        except (RuntimeError, MemoryError):
            self.close()
            raise ServiceError(
                f"cannot start {threads} threads for handshakes, the system gave {len(self._threads)}; "
                "choose fewer with --handshake-threads, or raise the limits of memory and processes"
            ) from None
        finally:
            threading.stack_size(previous)

    def submit(self, job: HandshakeJob) -> None:
        """Give a connection to the pool; from now on a thread owns it, until `done`."""
        self._jobs.append(job)
        self._tokens.put(True)

    def close(self) -> None:
        """End the threads after what they are at."""
        for _ in self._threads:
            self._tokens.put(False)
        for thread in self._threads:
            thread.join(timeout=1.0)

    def _work(self) -> None:
        while self._tokens.get():
            job = self._jobs.pop()
            try:
                self._shake_hands(job)
            except (PeerError, OSError) as error:
                # Its traceback would keep the job, which has it, until a search for cycles.
                error.__traceback__ = error.__context__ = None
                job.error = error
            except Exception as error:  # a bug ends this one connection; the loop reports it
                job.error = error
            self._done(job)
            del job  # or a thread that waits keeps its last one

    def _shake_hands(self, job: HandshakeJob) -> None:
        if job.connection is None:
            job.connection = Connection(self._identity, time.monotonic(), version_sent=True)
        connection = job.connection
        # Who sends a byte now and then never gives way by silence: the loop ends it after the deadline.
        while not job.established and time.monotonic() < job.deadline:
            received = self._receive(job.sock)
            if received is None:
                break
            if not received:
                job.ended = True
                return
            job.received += len(received)
            connection.receive_data(received)
            event = connection.next_event(time.monotonic())
            job.established = isinstance(event, HandshakeCompleted)
            self._send(job, connection.data_to_send())

    def _receive(self, sock: socket.socket) -> Optional[bytes]:
        """Return what the peer sent, b"" at its end, None where it gives way."""
        try:
            return sock.recv(READ_SIZE, 0 if not self._jobs else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    @staticmethod
    def _send(job: HandshakeJob, data: bytes) -> None:
        if data:
            job.sock.sendall(data)  # the kernel takes these few hundred bytes at once
            job.sent += len(data)
