"""One tunnel in the event loop: a socket, and the layers of the client over it.

    send() --> queue --> layers --> socket        encrypts no more than the socket accepts
    on_message() <------ layers <-- socket        not while `pause` holds

A tunnel is ready when the other side has proven its key end to end.
"""

from __future__ import annotations

import socket
import time
from collections import deque
from contextlib import suppress
from typing import Protocol

from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.client import ConnectError, ConnectionEnded, ConnectionLost, Dialing, Step
from offset_common.client.layers import Layers
from offset_common.client.tunnel import explain_not_joined
from offset_common.errors import OffsetError
from offset_common.forward.acknowledgements import Acknowledgements
from offset_common.forward.event_loop import READ, WRITE, EventLoop
from offset_common.wire.messages import InitConnection

READ_SIZE = 256 * 1024  # bytes read at once
WRITE_SIZE = 128 * 1024  # bytes of messages encrypted at once
BACKLOG = 256 * 1024  # unsent bytes above which the session should stop reading its local connections
UNSENT = 128 * 1024  # bytes that the kernel may hold unsent; newer messages wait in the queue
TICK = 1.0  # seconds between checks of the clock


class TunnelUser(Protocol):
    """The owner of a tunnel, to which it reports."""

    def on_ready(self) -> None:
        """Start: the other side has proven its key, and messages can be sent."""

    def on_message(self, message: bytes) -> None:
        """Handle a message. A PeerError raised here ends the tunnel."""

    def on_drained(self) -> None:
        """Continue sending: the backlog is small again."""

    def on_end(self, error: Exception) -> None:
        """Handle the end of the tunnel, unless `close` caused it."""


class ForwardTunnel:
    """A tunnel of stforward.

    Args:
        loop: the event loop.
        dialing: all its steps are done; the tunnel now owns its socket.
        init: a connect or an accept.
        timeout: seconds until the other side must have proven its key.
        user: the owner, to which it reports.
    """

    def __init__(
        self, loop: EventLoop, dialing: Dialing, init: InitConnection, timeout: float, user: TunnelUser
    ) -> None:
        assert init.public_key is not None
        now = time.monotonic()
        self._loop = loop
        self._sock = dialing.sock
        self._init = init
        self._user = user
        self._start = now
        self._ready_by = now + timeout
        dialing.connection.send(init.encode(), now)
        channel = KeepaliveChannel(dialing.identity, now, init.public_key)
        self._layers = Layers(dialing.connection, channel, now)
        self._ready = False
        self._queue: deque[bytes] = deque()
        self._queue_size = 0
        self._out = memoryview(b"")
        self._full = False
        self._paused = False
        self._finishing = False
        self.closed = False
        self._sock.setblocking(False)
        self._acknowledgements = Acknowledgements(self._sock, now)
        _set_option(self._sock, "TCP_NOTSENT_LOWAT", UNSENT)
        self._timer = loop.call_later(TICK, self._tick)
        loop.call_soon_threadsafe(self._continue)

    @property
    def full(self) -> bool:
        """Whether the session should stop sending until `on_drained`."""
        return self._full

    def send(self, message: bytes) -> None:
        """Queue a message."""
        self._queue.append(message)
        self._queue_size += len(message)
        self._full = self._full or self._queue_size > BACKLOG
        if not self._out and not self.closed:
            self._watch()

    def pause(self) -> None:
        """Pause reading."""
        self._paused = True
        self._watch()

    def resume(self) -> None:
        """Resume reading."""
        if self._paused and not self.closed:
            self._paused = False
            self._layers.restart_idle_timeout(time.monotonic())
            # Messages may wait in the layers, where the selector does not see them.
            self._loop.call_soon_threadsafe(self._continue)

    def finish(self) -> None:
        """Close once everything queued is sent."""
        self._finishing = True
        if not self.closed:
            self._watch()

    def close(self) -> None:
        """Close at once, and report nothing more."""
        if not self.closed:
            self.closed = True
            self._timer.cancel()
            self._loop.watch(self._sock, 0, self)
            self._sock.close()

    def on_ready(self, events: int) -> None:
        """Read and write once."""
        if events & READ:
            self._read()
        if not self.closed:
            self._write()  # also the layers' own answers
            self._watch()

    def on_failure(self, error: Exception) -> None:
        """End, because of the network, the relay or the other side."""
        if self.closed:
            return
        self.close()
        if isinstance(error, OSError):
            lost = ConnectionLost(f"the connection was lost: {error.strerror or error}")
            error = lost if self._ready else self._not_joined()
        self._user.on_end(error)

    def _read(self) -> None:
        data = b""
        with suppress(BlockingIOError):
            data = self._sock.recv(READ_SIZE)
            if not data:
                raise self._end_of_stream()
        self._layers.receive_data(data)
        self._decode()

    def _decode(self) -> None:
        now = time.monotonic()
        while not self._paused and not self.closed:
            message = self._layers.next_message(now)
            if self._layers.ready and not self._ready:
                self._ready = True
                self._user.on_ready()
            if message is None:
                return
            self._user.on_message(message)

    def _continue(self) -> None:
        if not self.closed:
            try:
                self._decode()
                self.on_ready(0)
            except Exception as error:
                self.on_failure(error)

    def _write(self) -> None:
        if not self._out:
            self._encrypt()
        if self._out:
            with suppress(BlockingIOError):
                self._out = self._out[self._sock.send(self._out) :]
        if self._full and self._queue_size <= BACKLOG // 2:
            self._full = False
            self._user.on_drained()
        if self._finishing and not self._out and not self._queue and not self.closed:
            self._sock.shutdown(socket.SHUT_WR)
            self._finishing = False

    def _encrypt(self) -> None:
        now = time.monotonic()
        size = 0
        while self._ready and self._queue and size < WRITE_SIZE:
            message = self._queue.popleft()
            size += len(message)
            self._layers.send(message, now)
        self._queue_size -= size
        self._out = memoryview(self._layers.data_to_send())

    def _tick(self) -> None:
        self._timer = self._loop.call_later(TICK, self._tick)
        now = time.monotonic()
        try:
            if self._paused:
                self._layers.restart_idle_timeout(now)
            self._layers.handle_time(now)
            self._acknowledgements.check(now)
            if not self._ready and now >= self._ready_by:
                raise ConnectError(Step.END_TO_END, "the other side did not prove its key in time")
        except Exception as error:
            self.on_failure(error)
        else:
            self._continue()

    def _watch(self) -> None:
        events = 0 if self._paused else READ
        if self._out or (self._ready and self._queue) or self._finishing:
            events |= WRITE
        self._loop.watch(self._sock, events, self)

    def _end_of_stream(self) -> OffsetError:
        if not self._ready:
            return self._not_joined()
        return ConnectionEnded("the other side or the relay closed the tunnel")

    def _not_joined(self) -> OffsetError:
        return explain_not_joined(self._init.role, True, time.monotonic() - self._start)


def _set_option(sock: socket.socket, name: str, value: int) -> None:
    """Set a TCP option if the system has it."""
    with suppress(OSError):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
