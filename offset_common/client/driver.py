"""The thread that runs one connection of a node, and the two queues between it and the program.

    send()    --> messages to send  --> layers --> socket      a full queue makes `send` wait
    receive() <-- messages received <-- layers <-- socket      a full queue stops the reading

Only the thread touches the layers and the socket, so there is no lock around protocol state; the lock
guards the queues. Keepalives go on while a queue is full, and the peer's silence is not counted while
we do not read.
"""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from typing import Optional

from offset_common.client.layers import Layers
from offset_common.constants import MAX_MESSAGE_SIZE
from offset_common.errors import (
    ConnectionEnded,
    ConnectionLost,
    LocalProtocolError,
    OffsetError,
)

QUEUE_SIZE = 1024 * 1024  # bytes of messages, each way, over which a queue is full
MESSAGE_COST = 64  # bytes counted for each message besides its content
READ_SIZE = 256 * 1024  # bytes read at once
WRITE_SIZE = 256 * 1024  # bytes of messages sealed at once
CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for what was sent to be taken


class MessageQueue:
    """Messages in order, and whether there are as many as there may be.

    Args:
        size: bytes over which it is full.
    """

    def __init__(self, size: int) -> None:
        self._messages: deque[bytes] = deque()
        self._size = size
        self._used = 0

    def __bool__(self) -> bool:
        return bool(self._messages)

    @property
    def full(self) -> bool:
        """Whether nothing more should be put in; one message always goes in."""
        return self._used >= self._size

    @property
    def half_empty(self) -> bool:
        """Whether it is worth while to fill it again."""
        return self._used <= self._size // 2

    def put(self, message: bytes) -> None:
        """Add a message at the end."""
        self._messages.append(message)
        self._used += len(message) + MESSAGE_COST

    def take(self) -> bytes:
        """Remove and return the first message."""
        message = self._messages.popleft()
        self._used -= len(message) + MESSAGE_COST
        return message

    def clear(self) -> None:
        """Forget all messages."""
        self._messages.clear()
        self._used = 0


class Driver:
    """A connection with its thread, for one program.

    Args:
        sock: connected; the thread's from now on.
        layers: what runs on it; the thread's from now on.
        name: of the thread.
        ended: what is raised once the relay has ended the connection.
        never_met: what is raised instead if nothing came from the other node before.
    """

    def __init__(
        self,
        sock: socket.socket,
        layers: Layers,
        name: str,
        ended: ConnectionEnded,
        never_met: Optional[ConnectionEnded] = None,
    ) -> None:
        self._sock = sock
        self._layers = layers
        self._ended = ended
        self._never_met = never_met
        # Shared with the program's threads, under the lock.
        self._lock = threading.Lock()
        self._can_receive = threading.Condition(self._lock)
        self._can_send = threading.Condition(self._lock)
        self._received = MessageQueue(QUEUE_SIZE)
        self._to_send = MessageQueue(QUEUE_SIZE)
        self._ready = layers.ready
        self._receiving_ended: Optional[OffsetError] = None
        self._sending_ended: Optional[OffsetError] = None
        self._closing = False
        self._woken = False
        self._finished = False
        # The thread's own.
        self._out = memoryview(b"")  # what the socket did not take yet
        self._drained = False  # all that was read is made into messages
        self._paused = False  # the program leaves so much unread that we do not read
        self._half_closed = False  # nothing more is written
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._wake_writer.setblocking(False)
        self._sock.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        self._watched = 0
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # For the program's threads.

    def wait_ready(self, timeout: float) -> bool:
        """Wait until messages may pass; return whether that came in time.

        Raises:
            ConnectionEnded, PeerError: it cannot come any more.
        """
        with self._lock:
            self._can_receive.wait_for(lambda: self._ready or self._receiving_ended, timeout)
            if not self._ready and self._receiving_ended:
                raise self._receiving_ended
            return self._ready

    def send(self, message: bytes, timeout: Optional[float]) -> None:
        """Queue one message; see Tunnel.send."""
        if len(message) > MAX_MESSAGE_SIZE:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes, where {MAX_MESSAGE_SIZE} is the most"
            )
        with self._lock:
            done = self._can_send.wait_for(lambda: self._sending_ended or not self._to_send.full, timeout)
            if self._sending_ended:
                raise self._sending_ended.with_traceback(None)
            if not done:
                raise TimeoutError(f"the connection took no message for {timeout:g} s")
            self._to_send.put(message)
            self._wake()

    def receive(self, timeout: Optional[float]) -> bytes:
        """Take one message; see Tunnel.receive."""
        with self._lock:
            self._can_receive.wait_for(lambda: self._received or self._receiving_ended, timeout)
            if self._received:
                was_waiting = not self._received.half_empty
                message = self._received.take()
                if was_waiting and self._received.half_empty:
                    self._wake()
                return message
            if self._receiving_ended:
                raise self._receiving_ended.with_traceback(None)
            raise TimeoutError(f"no message came within {timeout:g} s")

    def close(self, timeout: float) -> None:
        """Deliver what was sent and end the connection; see Tunnel.close."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._received.clear()
                self._end_both(ConnectionEnded("the connection was closed on this side"))
                self._wake()
        self._thread.join(timeout)

    def _wake(self) -> None:
        if not self._woken and not self._finished:
            self._woken = True
            self._wake_writer.send(b"\0")

    def _end_both(self, error: OffsetError) -> None:
        self._receiving_ended = self._receiving_ended or error
        self._sending_ended = self._sending_ended or error
        self._can_receive.notify_all()
        self._can_send.notify_all()

    # For the connection's thread.

    def _run(self) -> None:
        error: OffsetError = ConnectionLost("a bug on this side ended the connection")
        try:
            while self._round():
                pass
            error = self._end_of_stream()
        except OffsetError as failure:
            error = failure
        except OSError as failure:
            lost = ConnectionLost(f"the connection was lost: {failure.strerror or failure}")
            error = self._never_met or lost
        finally:
            self._finish(error)

    def _round(self) -> bool:
        """Do all there is to do and wait once; return whether there is more to come."""
        now = time.monotonic()
        if self._paused:
            self._layers.mark_received(now)
        self._take_received(now)
        self._layers.handle_time(now)
        self._write(now)
        for key, _ in self._wait(now):
            if key.fileobj is self._wake_reader:
                with self._lock:
                    self._woken = False
                    self._wake_reader.recv(64)
        # Whatever ended the wait: nobody is called silent before all that came is read.
        return not self._drained or self._read()

    def _wait(self, now: float) -> list[tuple[selectors.SelectorKey, int]]:
        mask = 0
        if self._drained:
            mask |= selectors.EVENT_READ
        if self._out or (not self._half_closed and self._more_to_send()):
            mask |= selectors.EVENT_WRITE
        if mask != self._watched:
            if not self._watched:
                self._selector.register(self._sock, mask)
            elif not mask:
                self._selector.unregister(self._sock)
            else:
                self._selector.modify(self._sock, mask)
            self._watched = mask
        return self._selector.select(max(0.0, self._layers.next_deadline() - now))

    def _read(self) -> bool:
        """Read once; return whether the peer's end is still to come."""
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return True
        if data:
            self._layers.receive_data(data)
            self._drained = False
        return bool(data)

    def _take_received(self, now: float) -> None:
        """Make messages of what was read, as many as the queue takes."""
        with self._lock:
            self._paused = self._received.full or (self._paused and not self._received.half_empty)
        while not self._drained and not self._paused:
            message = self._layers.next_message(now)
            with self._lock:
                if self._layers.ready and not self._ready:
                    self._ready = True
                    self._can_receive.notify_all()
                if message is not None and not self._closing:
                    self._received.put(message)
                    self._can_receive.notify()
                self._paused = self._received.full
            self._drained = message is None
            if message is not None or self._layers.end_to_end_ready:
                self._never_met = None

    def _write(self, now: float) -> None:
        """Seal some of what the program sends and write once; half-close after the last of it."""
        if self._half_closed:
            self._layers.data_to_send()
            return
        last = False
        if not self._out:
            last = self._seal(now)
            self._out = memoryview(self._layers.data_to_send())
        try:
            if self._out:
                self._out = self._out[self._sock.send(self._out) :]
            elif last:
                self._half_closed = True
                self._sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError as error:
            self._stop_writing(error)

    def _seal(self, now: float) -> bool:
        """Seal the next messages; return whether the program has sent its last."""
        messages: list[bytes] = []
        size = 0
        with self._lock:
            while self._ready and self._to_send and size < WRITE_SIZE:
                message = self._to_send.take()
                messages.append(message)
                size += len(message)
            if not self._to_send.full:
                self._can_send.notify_all()
            last = self._closing and not messages
        for message in messages:
            self._layers.send(message, now)
        return last

    def _more_to_send(self) -> bool:
        with self._lock:
            return self._closing or (self._ready and bool(self._to_send))

    def _stop_writing(self, error: OSError) -> None:
        # The peer may have said something before it ended: that is still read, to its end.
        self._half_closed = True
        self._out = memoryview(b"")
        with self._lock:
            reason = f"the connection was lost: {error.strerror or error}"
            self._sending_ended = self._sending_ended or ConnectionLost(reason)
            self._to_send.clear()
            self._can_send.notify_all()

    def _end_of_stream(self) -> OffsetError:
        if self._layers.has_partial:
            return ConnectionLost("the connection was cut off within a message")
        return self._never_met or self._ended

    def _finish(self, error: OffsetError) -> None:
        with self._lock:
            self._finished = True
            self._end_both(error)
            self._to_send.clear()
            self._wake_reader.close()
            self._wake_writer.close()
        self._selector.close()
        self._sock.close()


def is_orderly(error: OffsetError) -> bool:
    """Whether a connection ended as connections should: nothing is missing."""
    return type(error) is ConnectionEnded
