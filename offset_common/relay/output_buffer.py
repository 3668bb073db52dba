"""Unread output: bytes that wait because a peer does not read them at once."""

from __future__ import annotations

import socket
from typing import Optional, Union

from offset_common.relay.buffer_pool import Account

Buffer = Union[bytes, bytearray, memoryview]


class OutputBuffer:
    """The output of one connection that its socket did not take.

    Args:
        account: counts what waits.
    """

    __slots__ = ("_account", "_buffer", "_start", "moved_at")

    def __init__(self, account: Account) -> None:
        self._account = account
        self._buffer: Optional[bytearray] = None
        self._start = 0  # of what is not written yet
        self.moved_at = 0.0  # seconds: when the peer last read some of it, or when it began to wait

    def __len__(self) -> int:
        """Return the bytes that wait."""
        return 0 if self._buffer is None else len(self._buffer) - self._start

    def append(self, data: Buffer, now: float) -> None:
        """Append `data` to what waits."""
        if self._buffer is None:
            self._buffer = bytearray()
            self._start = 0
            self.moved_at = now
        self._buffer += data
        self._account.add(len(data))

    def write_to(self, sock: socket.socket, now: float) -> int:
        """Write what `sock` takes at once; return how many bytes that was.

        Raises:
            OSError: the connection is lost.
        """
        assert self._buffer is not None
        try:
            with memoryview(self._buffer) as view:
                taken = sock.send(view[self._start :], socket.MSG_DONTWAIT)
        except BlockingIOError:
            return 0  # what made it ready is gone already
        self._account.add(-taken)
        self._start += taken
        self.moved_at = now
        if self._start == len(self._buffer):
            self._buffer = None
        elif self._start > len(self._buffer) // 2:
            del self._buffer[: self._start]
            self._start = 0
        return taken

    def content(self) -> bytes:
        """Return the bytes that wait."""
        return b"" if self._buffer is None else bytes(self._buffer[self._start :])

    def clear(self) -> None:
        """Drop what waits."""
        self._account.add(-len(self))
        self._buffer = None
