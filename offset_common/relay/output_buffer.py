"""Unread output: bytes queued until the peer reads them."""

from __future__ import annotations

import socket

from offset_common.relay.buffer_pool import Account
from offset_common.relay.limits import KIB
from offset_common.relay.sockets import NO_WAIT
from offset_common.wire.frames import Buffer

HIGH_WATER = 512 * KIB  # bytes of unread output at which the other end of a tunnel is paused
LOW_WATER = 128 * KIB  # bytes of unread output at which it is resumed

_EMPTY = bytearray()  # shared by all connections without output, which are most of them


class OutputBuffer:
    """The output of one connection that its socket did not accept.

    Args:
        account: counts the queued bytes.
    """

    __slots__ = ("_account", "_buffer", "moved_at", "size")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._buffer = _EMPTY
        self.size = 0  # bytes queued
        self.moved_at = 0.0  # seconds: when the socket last accepted output, or when output was first queued

    @property
    def room(self) -> int:
        """How many more bytes may be queued before the sender must pause."""
        return min(HIGH_WATER - self.size, self._account.available())

    def append(self, data: Buffer, now: float) -> None:
        """Queue `data`."""
        if not self.size:
            self.moved_at = now
            self._buffer = bytearray()
        self._buffer += data
        self._count(len(data))

    def write_to(self, sock: socket.socket, now: float) -> int:
        """Write what `sock` accepts without blocking; return the number of bytes.

        Raises:
            OSError: the connection is lost.
        """
        try:
            with memoryview(self._buffer) as view:
                taken = sock.send(view, NO_WAIT)
        except BlockingIOError:
            return 0  # the socket is not ready after all
        self._count(-taken)
        self.moved_at = now
        del self._buffer[:taken]  # copies what is left only when half of it is gone
        return taken

    def content(self) -> bytes:
        """Return the queued bytes."""
        return bytes(self._buffer)

    def clear(self) -> None:
        """Discard the queued bytes."""
        self._count(-self.size)
        self._buffer = _EMPTY

    def _count(self, change: int) -> None:
        self.size += change
        self._account.add(change)
