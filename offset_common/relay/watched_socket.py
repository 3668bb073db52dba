"""A socket in the event loop: what it is watched for, and operations on the raw socket."""

from __future__ import annotations

import contextlib
import fcntl
import select
import socket
import sys
import termios

from offset_common.relay.event_loop import READ, EventLoop, ReadyEntry
from offset_common.relay.limits import SMALL_READ
from offset_common.relay.sockets import NO_WAIT, RESET

SMALL_INPUT = 512  # bytes: a frame with a small message and its padding

_INT_SIZE = 4  # bytes of a C int


class WatchedSocket(ReadyEntry):
    """The socket of a connection.

    Args:
        loop: the event loop that watches it.
        sock: a connected socket; it may be blocking, but the loop never waits for it.
        prefix: the prefix of the peer's address, for fair queueing.
    """

    __slots__ = ("_watched", "bytes_awaited", "loop", "polled_coarsely", "sock")

    def __init__(self, loop: EventLoop, sock: socket.socket, prefix: str) -> None:
        super().__init__(loop, prefix)
        self.loop = loop
        self.sock = sock
        self.polled_coarsely = False  # once a second
        self.bytes_awaited = 1  # must have arrived before the socket counts as readable
        self._watched = 0

    @property
    def reading(self) -> bool:
        """Whether the socket is watched for input."""
        return bool(self._watched & READ)

    def watch(self, events: int) -> None:
        """Watch the socket for `events` (0 for none), and end coarse polling."""
        if self.polled_coarsely:
            self.loop.unregister_coarse(self.sock)
            self.polled_coarsely = False
            self._watched = 0
        if events == self._watched:
            return
        if not self._watched:
            self.loop.register(self.sock, events, self)
        elif not events:
            self.loop.unregister(self.sock)
        else:
            self.loop.modify(self.sock, events, self)
        self._watched = events

    def watch_more(self, event: int) -> None:
        """Also watch the socket for `event`."""
        self.watch(self._watched | event)

    def watch_less(self, event: int) -> None:
        """Stop watching the socket for `event`."""
        self.watch(self._watched & ~event)

    def poll_coarsely(self) -> bool:
        """Poll the socket once a second if it is watched only for input; return whether this is a change."""
        if self.polled_coarsely or self._watched != READ:
            return False
        self.watch(0)
        self.loop.register_coarse(self.sock, self)
        self.polled_coarsely = True
        self._watched = READ
        return True

    def poll_normally(self) -> None:
        """End coarse polling."""
        if self.polled_coarsely:
            self.watch(READ)

    def detach_socket(self) -> socket.socket:
        """Return the socket, which now belongs to the caller; its descriptor stays the same."""
        self.watch(0)
        return socket.socket(fileno=self.sock.detach())

    def discard_input(self, most: int) -> bool:
        """Read at most `most` bytes and discard them; return False if the peer has closed.

        Raises:
            OSError: the connection is lost, or (BlockingIOError) there is no input.
        """
        return bool(self.sock.recv(most, NO_WAIT))

    def await_bytes(self, count: int) -> None:
        """Make the socket count as readable once `count` bytes have arrived, or the peer has closed."""
        if count != self.bytes_awaited:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, count)
            self.bytes_awaited = count

    def limit_unsent(self, count: int) -> None:
        """Let the system keep at most about `count` bytes of output that it has not sent yet."""
        with contextlib.suppress(AttributeError, OSError):  # a system, or a kind of socket, that cannot do it
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, count)

    def count_unread(self) -> int:
        """Return how many bytes have arrived that are not read."""
        return self._count(termios.FIONREAD)

    def has_much_input(self) -> bool:
        """Return whether more has arrived than a small message."""
        return self.reading and self.count_unread() > SMALL_INPUT

    def is_readable(self) -> bool:
        """Return whether input has arrived that the loop will read."""
        return self.reading and self._poll(select.POLLIN) != 0

    def is_writable(self) -> bool:
        """Return whether the system takes more output: at least a third of its buffer is free."""
        return self._poll(select.POLLOUT) != 0

    def peer_has_closed(self) -> bool:
        """Return whether no more input will arrive: the peer has closed, or the connection is lost."""
        return self._poll(getattr(select, "POLLRDHUP", 0)) != 0  # not every system has it

    def send_buffer_size(self) -> int:
        """Return the bytes of memory that the system's buffer for output may take."""
        return self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)

    def count_unacknowledged(self) -> int:
        """Return how many bytes were written that the peer's system has not acknowledged.

        On a lost connection it is 0: the system still counts them, but no longer sends them.
        """
        try:
            return 0 if self._poll(0) & select.POLLERR else self._count(termios.TIOCOUTQ)
        except (OSError, ValueError):
            return 0  # a system that cannot report it, or a socket that is already closed

    def drop_unacknowledged(self) -> None:
        """Make closing the socket discard unacknowledged bytes and send a reset, if they are many.

        Otherwise the system would keep them for minutes, without any limit on the number of such sockets.
        """
        if self.count_unacknowledged() > SMALL_READ:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)

    def shut_down_writing(self) -> None:
        """Close the sending direction of the connection.

        Raises:
            OSError: the connection is lost.
        """
        self.sock.shutdown(socket.SHUT_WR)

    def _count(self, request: int) -> int:
        return int.from_bytes(fcntl.ioctl(self.sock, request, bytes(_INT_SIZE)), sys.byteorder)

    def _poll(self, events: int) -> int:
        """Return which of `events` the socket is ready for, and whether it is lost (POLLERR, POLLHUP)."""
        poller = select.poll()
        poller.register(self.sock, events)
        return sum(ready for _, ready in poller.poll(0))
