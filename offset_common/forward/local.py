"""One local connection and its stream: a TCP connection, a Unix socket, or the pipes of a terminal.

    socket --> on_ready --> stream      not while the stream has no credit, or the session is full
    socket <-- on_data  <-- stream      bytes that the socket does not accept are queued, without new credit

An orderly end of one direction ends that direction of the other connection. Everything else resets it, so
that a truncated file never looks complete.
"""

from __future__ import annotations

import os
import socket
import struct
from contextlib import suppress
from functools import partial
from typing import Callable, Optional, Protocol, Union

from offset_common.forward.event_loop import READ, WRITE, EventLoop
from offset_common.forward.messages import HEADER
from offset_common.forward.streams import Stream

CHUNK_SIZE = 128 * 1024 - 64  # bytes read at once, which is also the maximum in one message
BUFFER_SIZE = HEADER.size + CHUNK_SIZE
MAX_REASON = 200  # characters of a reason that the other side gives
LINGER_NONE = struct.pack("ii", 0, 0)  # close() delivers pending bytes
LINGER_RESET = struct.pack("ii", 1, 0)  # close() resets the connection


class Gate(Protocol):
    """The part of a session that a local connection uses."""

    @property
    def buffer(self) -> memoryview:
        """BUFFER_SIZE bytes to read into, which the connections of a session share."""

    def may_send(self) -> bool:
        """Return whether the session accepts data."""

    def wait_to_send(self, local: LocalConnection) -> None:
        """Call `LocalConnection.continue_reading` once the session accepts data again."""

    def count_unwritten(self, size: int) -> None:
        """Count bytes that wait for a local connection; the number is negative once they are written."""


Ended = Callable[["LocalConnection", str], object]
"""Called with a connection that has ended, and the reason, which is empty for an orderly end."""


class LocalConnection:
    """A local connection and its stream. `start` gives it its socket, `enter` its session.

    Args:
        loop: the event loop.
        ended: called once, at the end.
    """

    def __init__(self, loop: EventLoop, ended: Ended) -> None:
        self.sent = self.received = 0  # bytes to and from the other side
        self._loop = loop
        self._gate: Optional[Gate] = None
        self._ended = ended
        self._sock: Optional[socket.socket] = None
        self._stream: Optional[Stream] = None
        self._unwritten = bytearray()  # not an object per message: the other side chooses the sizes
        self._reading_ended = False  # our END is sent
        self._end_received = self._writing_ended = False
        self._waiting = False  # for the session
        self._closed = False

    def enter(self, gate: Gate) -> None:
        """Use the session that will carry the stream."""
        self._gate = gate

    def start(self, sock: socket.socket) -> None:
        """Forward a connected socket, which this object now owns."""
        if self._closed:
            close_with_reset(sock)
            return
        prepare(sock)
        self._sock = sock
        self._guard(self._write)

    def fail(self, reason: str) -> None:
        """End with a reset on both sides."""
        if not self._closed:
            if self._stream is not None:
                self._stream.reset(reason)
            self._close(reason)

    # Called by the stream.

    def on_open(self, stream: Stream) -> None:
        """Keep the stream."""
        self._stream = stream
        self._watch()

    def on_data(self, data: memoryview) -> None:
        """Write bytes to the socket, or queue them."""
        if self._closed:
            return
        self.received += len(data)
        if not self._unwritten and self._sock is not None:
            data = data[self._guard(partial(self._send, self._sock, data)) :]
        if len(data) and not self._closed:
            self._unwritten += data
            self._count_unwritten(len(data))
            self._watch()

    def on_end(self) -> None:
        """End this direction once everything queued is written."""
        self._end_received = True
        self._guard(self._write)

    def on_reset(self, reason: str) -> None:
        """Reset the socket: the other side cut the connection off."""
        self._close(reason[:MAX_REASON] or "the other side cut it off")

    def on_credit(self) -> None:
        """Resume reading."""
        self._watch()

    # Called by the session and the event loop.

    def continue_reading(self) -> None:
        """Resume reading: the session accepts data again."""
        self._waiting = False
        self._watch()

    def on_ready(self, events: int) -> None:
        """Read or write once."""
        if events & WRITE:
            self._write()
        if events & READ and not self._closed:
            self._read()

    def on_failure(self, error: Exception) -> None:
        """End, because the socket failed."""
        self.fail(reason_of(error))

    def _guard(self, call: Callable[[], int]) -> int:
        try:
            return call()
        except OSError as error:
            self.on_failure(error)
            return 0

    def _read(self) -> None:
        gate, stream, sock = self._gate, self._stream, self._sock
        if gate is None or stream is None or sock is None or self._reading_ended:
            return
        if not gate.may_send():
            self._waiting = True
            gate.wait_to_send(self)
        elif stream.credit:
            try:
                size = sock.recv_into(gate.buffer[HEADER.size :], min(stream.credit, CHUNK_SIZE))
            except BlockingIOError:
                return
            if size:
                self.sent += size
                gate.buffer[: HEADER.size] = stream.header
                stream.send_data(bytes(gate.buffer[: HEADER.size + size]))
            else:
                self._reading_ended = True
                stream.send_end()
                self._close_if_done()
        self._watch()

    def _send(self, sock: socket.socket, data: Union[memoryview, bytearray]) -> int:
        """Send what the socket accepts, and return credit for it; return the number of bytes."""
        size = 0
        with suppress(BlockingIOError):
            size = sock.send(data)
            if self._stream is not None:
                self._stream.return_credit(size)
        return size

    def _write(self) -> int:
        sock = self._sock
        if sock is None or self._closed:
            return 0
        if self._unwritten:
            size = self._send(sock, self._unwritten)
            del self._unwritten[:size]
            self._count_unwritten(-size)
        if self._end_received and not self._unwritten and not self._writing_ended:
            self._writing_ended = True
            with suppress(OSError):  # the peer may have closed both directions already
                sock.shutdown(socket.SHUT_WR)
            self._close_if_done()
        self._watch()
        return 0

    def _count_unwritten(self, size: int) -> None:
        if self._gate is not None:
            self._gate.count_unwritten(size)

    def _watch(self) -> None:
        if self._closed or self._sock is None:
            return
        events = 0
        if self._stream is not None and self._stream.credit and not self._reading_ended and not self._waiting:
            events = READ
        if self._unwritten:
            events |= WRITE
        self._loop.watch(self._sock, events, self)

    def _close_if_done(self) -> None:
        if self._reading_ended and self._writing_ended:
            self._close("")

    def _close(self, reason: str) -> None:
        if self._closed:
            return
        self._closed = True
        self._count_unwritten(-len(self._unwritten))
        self._unwritten.clear()
        if self._sock is not None:
            self._loop.watch(self._sock, 0, self)
            if reason:
                close_with_reset(self._sock)
            else:
                _set_linger(self._sock, LINGER_NONE)
                self._sock.close()
        self._ended(self, reason)


def prepare(sock: socket.socket) -> None:
    """Prepare a socket: until its orderly end, closing it resets it, even if this process is killed."""
    sock.setblocking(False)
    _set_linger(sock, LINGER_RESET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def close_with_reset(sock: socket.socket) -> None:
    """Close a socket and reset its connection."""
    _set_linger(sock, LINGER_RESET)
    sock.close()


def _set_linger(sock: socket.socket, value: bytes) -> None:
    with suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, value)


def reason_of(error: Exception) -> str:
    """Return the text of an error, without the number of a system error."""
    if isinstance(error, OSError) and error.errno and not isinstance(error, socket.gaierror):
        text = os.strerror(error.errno)
        return text[:1].lower() + text[1:]
    return str(error)
