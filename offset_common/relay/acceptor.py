"""Accepts connections from a listening socket, at a limited rate and while the system has resources.

Accepted sockets inherit their options from the listening socket (sockets.py).
"""

from __future__ import annotations

import errno
import socket
from typing import Callable

from offset_common.relay.addresses import SystemAddress
from offset_common.relay.event_loop import READ, EventLoop

ACCEPT_PAUSE = 0.25  # seconds, after an error that the next attempt would probably repeat, such as EMFILE
ACCEPTS_IN_ROUND = 32  # new connections accepted before the established ones get their turns

# Errors that accept(2) reports for a single connection, apart from those that are a ConnectionError.
_OF_ONE_CONNECTION = frozenset(
    {
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)


class Acceptor:
    """One listening socket in the event loop.

    Args:
        loop: the event loop.
        sock: bound and listening, non-blocking.
        rate: the maximum number of connections to accept per second.
        accepted: called with each new socket and its peer's address.
        failed: called with the error if no connection can be accepted; returns whether to try again at once.
    """

    def __init__(
        self,
        loop: EventLoop,
        sock: socket.socket,
        rate: int,
        accepted: Callable[[socket.socket, SystemAddress], None],
        failed: Callable[[OSError], bool],
    ) -> None:
        self.sock = sock
        self._loop = loop
        self._rate = rate
        self._accepted = accepted
        self._failed = failed
        self._allowed = float(rate)  # connections that may be accepted at once; at most one second's worth
        self._allowed_at = loop.now
        self._paused = False
        loop.register(sock, READ, self)

    def on_ready(self, events: int) -> None:
        """Accept waiting connections, within the limit of a round and the rate."""
        now = self._loop.now
        self._allowed = min(self._rate, self._allowed + (now - self._allowed_at) * self._rate)
        self._allowed_at = now
        for _ in range(ACCEPTS_IN_ROUND):
            if self._allowed < 1.0:
                self._pause(now + (1.0 - self._allowed) / self._rate)
                return
            try:
                sock, address = self.sock.accept()
            except (BlockingIOError, ConnectionError):
                return  # no connection waits, or it has already ended
            except OSError as error:
                # After other errors the socket stays readable, which would keep the loop busy.
                if error.errno not in _OF_ONE_CONNECTION and not self._failed(error):
                    self._pause(self._loop.now + ACCEPT_PAUSE)
                return
            if not address:  # macOS has none for a peer that is already gone
                sock.close()
                continue
            self._allowed -= 1.0
            self._accepted(sock, address)

    def change_rate(self, rate: int) -> None:
        """Change the rate."""
        self._rate = rate

    def on_deadline(self) -> None:
        """Accept again after a pause."""
        self._paused = False
        self._loop.register(self.sock, READ, self)

    def close(self) -> None:
        """Stop listening."""
        if not self._paused:
            self._loop.unregister(self.sock)
        self._loop.deadlines.cancel(self)
        self.sock.close()

    def _pause(self, until: float) -> None:
        self._paused = True
        self._loop.unregister(self.sock)
        self._loop.deadlines.schedule(self, until)
