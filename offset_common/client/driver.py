"""The thread that runs one client connection, and the two queues between it and the program.

    send()    --> messages to send  --> layers --> socket      a full queue blocks `send`
    receive() <-- messages received <-- layers <-- socket      a full queue pauses reading

Only the thread uses the layers and the socket, so protocol state needs no lock; the lock guards the
queues. Keepalives are sent even while a queue is full, and the idle timeout stops while reading is paused.

After `close`, the thread sends what is queued, closes its sending direction and waits until the relay closes
the other one. It waits at most END_TIMEOUT, so a peer that never closes cannot keep the connection open.
"""

from __future__ import annotations

import math
import selectors
import socket
import threading
import time
from contextlib import ExitStack
from typing import Callable, Optional

from offset_common.client.layers import Layers
from offset_common.client.message_queue import MessageQueue
from offset_common.constants import MAX_MESSAGE_SIZE
from offset_common.errors import ConnectionEnded, ConnectionLost, LocalProtocolError, OffsetError
from offset_common.threads import start_thread

QUEUE_SIZE = 1024 * 1024  # bytes at which a queue is full, one for each direction
READ_SIZE = 256 * 1024  # bytes read at once
WRITE_SIZE = 256 * 1024  # bytes of messages encrypted at once
CLOSE_TIMEOUT = 5.0  # seconds that `close` waits for the delivery
END_TIMEOUT = 30.0  # seconds after `close` until the connection ends, whatever the peer does

NotJoined = Callable[[float], ConnectionEnded]


class Driver:
    """A connection and its thread.

    Args:
        sock: a connected socket; the thread now owns it.
        layers: the protocol layers; the thread now owns them.
        name: the thread's name.
        ended: the exception to raise after the relay has closed the connection.
        not_joined: returns the exception to raise instead if nothing has arrived from the other node; its
            argument is the age of the connection in seconds.

    Raises:
        OSError: the system has no descriptor or thread left; the socket is closed.
    """

    def __init__(
        self,
        sock: socket.socket,
        layers: Layers,
        name: str,
        ended: ConnectionEnded,
        not_joined: Optional[NotJoined] = None,
    ) -> None:
        self._sock = sock
        self._start = time.monotonic()
        self._layers = layers
        self._ended = ended
        self._not_joined = not_joined
        # Shared with the program's threads, guarded by the lock.
        self._lock = threading.Lock()
        self._can_receive = threading.Condition(self._lock)
        self._can_send = threading.Condition(self._lock)
        self._received = MessageQueue(QUEUE_SIZE)
        self._to_send = MessageQueue(QUEUE_SIZE)
        self._ready = layers.ready
        self._receiving_ended: Optional[OffsetError] = None
        self._sending_ended: Optional[OffsetError] = None
        self._closing = False
        self._end_by = math.inf  # the time by which the thread ends
        self._woken = False
        self._finished = False
        # Used by the thread only.
        self._out = memoryview(b"")  # bytes that the socket has not accepted yet
        self._drained = False  # all bytes read have been decoded
        self._paused = False  # reading is paused because the receive queue is full
        self._half_closed = False  # the sending direction is shut down
        self._watched = 0  # events of the socket
        with ExitStack() as undo:  # if the system has no descriptor or thread left
            undo.callback(sock.close)
            self._wake_reader, self._wake_writer = socket.socketpair()
            undo.callback(self._wake_reader.close)
            undo.callback(self._wake_writer.close)
            self._wake_writer.setblocking(False)
            self._sock.setblocking(False)
            self._selector = selectors.DefaultSelector()
            undo.callback(self._selector.close)
            self._selector.register(self._wake_reader, selectors.EVENT_READ)
            self._thread = start_thread(self._run, name)
            undo.pop_all()

    # Called from the program's threads.

    def wait_ready(self, timeout: float) -> bool:
        """Wait until messages can be sent; return False after the timeout in seconds.

        Raises:
            ConnectionEnded, PeerError: the connection ended first.
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
                f"a message of {len(message)} bytes is too large; the maximum is {MAX_MESSAGE_SIZE}"
            )
        with self._lock:
            done = self._can_send.wait_for(lambda: self._sending_ended or not self._to_send.full, timeout)
            if self._sending_ended:
                raise self._sending_ended.with_traceback(None)
            if not done:
                raise TimeoutError(f"the send queue stayed full for {timeout:g} s")
            self._to_send.put(message)
            self._wake()

    def receive(self, timeout: Optional[float]) -> bytes:
        """Return one message; see Tunnel.receive."""
        with self._lock:
            self._can_receive.wait_for(lambda: self._received or self._receiving_ended, timeout)
            if self._received:
                was_over_half = not self._received.half_empty
                message = self._received.take()
                if was_over_half and self._received.half_empty:
                    self._wake()
                return message
            if self._receiving_ended:
                raise self._receiving_ended.with_traceback(None)
            raise TimeoutError(f"no message arrived within {timeout:g} s")

    def close(self, timeout: Optional[float]) -> None:
        """Deliver what was sent and close the connection; see Handle.close."""
        self._start_closing(END_TIMEOUT)
        self._thread.join(timeout)

    def abort(self) -> None:
        """Close the connection without delivering anything; see Handle.abort."""
        self._start_closing(0.0)
        self._thread.join(CLOSE_TIMEOUT)

    def _start_closing(self, seconds: float) -> None:
        """Close this side, and give the thread this many seconds to end."""
        with self._lock:
            self._end_by = min(self._end_by, time.monotonic() + seconds)
            if not self._closing:
                self._closing = True
                self._received.clear()
                self._end_both(ConnectionEnded("the connection was closed on this side"))
            self._wake()

    def _wake(self) -> None:
        if not self._woken and not self._finished:
            self._woken = True
            self._wake_writer.send(b"\0")

    def _end_both(self, error: OffsetError) -> None:
        self._receiving_ended = self._receiving_ended or error
        self._sending_ended = self._sending_ended or error
        self._can_receive.notify_all()
        self._can_send.notify_all()

    # Called from the connection's thread.

    def _run(self) -> None:
        error: OffsetError = ConnectionLost("a bug on this side ended the connection")
        try:
            while self._run_once():
                pass
            error = self._end_of_stream()
        except OffsetError as failure:
            error = failure
        except OSError as failure:
            lost = ConnectionLost(f"the connection was lost: {failure.strerror or failure}")
            error = self._not_joined(self._age()) if self._not_joined else lost
        finally:
            self._finish(error)

    def _run_once(self) -> bool:
        """Do all pending work and wait once; return False at the end of the stream or at the time limit."""
        now = time.monotonic()
        with self._lock:
            end_by = self._end_by
        if now >= end_by:
            return False
        if self._paused:
            self._layers.restart_idle_timeout(now)
        self._decode(now)
        self._layers.handle_time(now)
        self._write(now)
        for key, _ in self._wait(min(end_by, self._layers.next_deadline()) - now):
            if key.fileobj is self._wake_reader:
                with self._lock:
                    self._woken = False
                    self._wake_reader.recv(64)
        # Read after every wait: the idle timeout must not expire while received bytes are unread.
        return not self._drained or self._read()

    def _wait(self, seconds: float) -> list[tuple[selectors.SelectorKey, int]]:
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
        return self._selector.select(max(0.0, seconds))

    def _read(self) -> bool:
        """Read once; return False at the end of the stream."""
        try:
            data = self._sock.recv(READ_SIZE)
        except BlockingIOError:
            return True
        if data:
            self._layers.receive_data(data)
            self._drained = False
        return bool(data)

    def _decode(self, now: float) -> None:
        """Decode received bytes into messages until the receive queue is full."""
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
                self._not_joined = None

    def _write(self, now: float) -> None:
        """Encrypt some queued messages and write once; half-close after the last of them."""
        if self._half_closed:
            self._layers.data_to_send()
            return
        last = False
        if not self._out:
            last = self._encrypt(now)
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

    def _encrypt(self, now: float) -> bool:
        """Encrypt the next messages; return True if `close` was called and none are left."""
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
        # Keep reading: the peer may have sent messages before it closed the connection.
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
        return self._not_joined(self._age()) if self._not_joined else self._ended

    def _age(self) -> float:
        return time.monotonic() - self._start

    def _finish(self, error: OffsetError) -> None:
        with self._lock:
            self._finished = True
            self._end_both(error)
            self._to_send.clear()
            self._wake_reader.close()
            self._wake_writer.close()
        self._selector.close()
        self._sock.close()
