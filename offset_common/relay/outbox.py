"""What waits to be written because a peer does not take it at once."""

from __future__ import annotations

import fcntl
import socket
import termios
from typing import TYPE_CHECKING, Optional, Union

if TYPE_CHECKING:
    from offset_common.relay.buffers import Budget
    from offset_common.relay.link import Link

_INT_SIZE = 4  # bytes, of the system's int

Buffer = Union[bytes, bytearray, memoryview]


class Outbox:
    """The output queue of one link. It does not know the link: in a circle both would outlive their end.

    Args:
        budget: counts what waits.
    """

    __slots__ = ("_budget", "_buffer", "_start", "moved_at")

    def __init__(self, budget: Budget[Link]) -> None:
        self._budget = budget
        self._buffer: Optional[bytearray] = None
        self._start = 0  # of what is not written yet
        self.moved_at = 0.0  # when the peer took the last of it, or when there began to be something

    def __len__(self) -> int:
        """The bytes that wait."""
        return 0 if self._buffer is None else len(self._buffer) - self._start

    def put(self, link: Link, data: Buffer, now: float) -> None:
        """Let `data` wait behind what waits already."""
        if self._buffer is None:
            self._buffer = bytearray()
            self._start = 0
            self.moved_at = now
        self._buffer += data
        self._budget.used += len(data)
        self._budget.keep(link, len(self), self.moved_at)

    def write_to(self, link: Link, now: float) -> int:
        """Write what the socket of `link` takes at once; return how many bytes that was.

        Raises:
            OSError: the connection is lost, or (BlockingIOError) nothing can be written.
        """
        assert self._buffer is not None
        with memoryview(self._buffer) as view:
            taken = link.sock.send(view[self._start :], socket.MSG_DONTWAIT)
        self._budget.used -= taken
        self._start += taken
        self.moved_at = now
        if self._start == len(self._buffer):
            self._buffer = None
        elif self._start > len(self._buffer) // 2:
            del self._buffer[: self._start]
            self._start = 0
        self._budget.keep(link, len(self), now)
        return taken

    def content(self) -> bytes:
        """Return the bytes that wait."""
        return b"" if self._buffer is None else bytes(self._buffer[self._start :])

    def forget(self, link: Link) -> None:
        """Drop what waits."""
        self._budget.used -= len(self)
        self._budget.keep(link, 0, 0.0)
        self._buffer = None


def is_on_its_way(sock: socket.socket) -> bool:
    """Say whether the peer's system has not confirmed all that was written to `sock`."""
    try:
        return any(fcntl.ioctl(sock, termios.TIOCOUTQ, bytes(_INT_SIZE)))
    except OSError:
        return False  # a system that does not tell
