"""A tunnel as a file: a stream of bytes, for code that reads and writes files.

A tunnel carries messages. The stream joins received messages, and sends each write as one or more messages.
Closing the stream does not close the tunnel, as with socket.makefile. The end of the file is the orderly end
of the tunnel. It does not prove that the other node had finished: the relay can close a tunnel at any time,
so a program that needs to know sends its own end marker.
"""

from __future__ import annotations

import io
from typing import IO, Any, Optional, Protocol

from offset_common.constants import MAX_MESSAGE_SIZE
from offset_common.errors import ConnectionEnded

MODES = ("r", "w", "rw", "wr")  # for text; a "b" after them for bytes


class Messages(Protocol):
    """The part of a tunnel that a stream uses."""

    def send(self, message: memoryview, timeout: Optional[float] = None) -> None:
        """Send one message."""

    def receive(self, timeout: Optional[float] = None) -> bytes:
        """Return the next message."""


class TunnelStream(io.RawIOBase):
    """The bytes of a tunnel's messages, without a buffer for writing.

    Reading and writing raise the errors of Tunnel.receive and Tunnel.send, except that the orderly end of the
    tunnel is the end of the file.

    Args:
        tunnel: carries the messages; it stays open when the stream is closed.
        readable: whether the stream can be read.
        writable: whether the stream can be written.
        timeout: seconds that each read or write waits, or None to wait forever.
    """

    def __init__(
        self, tunnel: Messages, readable: bool = True, writable: bool = True, timeout: Optional[float] = None
    ) -> None:
        super().__init__()
        self._tunnel = tunnel
        self._readable = readable
        self._writable = writable
        self._timeout = timeout
        self._unread = memoryview(b"")  # the rest of the last message

    def readable(self) -> bool:
        """Return whether the stream can be read."""
        return self._readable

    def writable(self) -> bool:
        """Return whether the stream can be written."""
        return self._writable

    def readinto(self, buffer: Any) -> int:
        """Read at least one byte into a buffer; return the number of bytes, or 0 at the end."""
        self._check(self._readable, "reading")
        target = memoryview(buffer).cast("B")
        while target and not self._unread:  # a message may be empty
            try:
                self._unread = memoryview(self._tunnel.receive(self._timeout))
            except ConnectionEnded as error:
                if type(error) is ConnectionEnded:  # its subclasses are errors
                    return 0
                raise
        size = min(len(target), len(self._unread))
        target[:size] = self._unread[:size]
        self._unread = self._unread[size:]
        return size

    def write(self, data: Any) -> int:
        """Send all bytes, in messages of at most 1 MiB; return the number of bytes."""
        self._check(self._writable, "writing")
        content = memoryview(data).cast("B")
        for start in range(0, len(content), MAX_MESSAGE_SIZE):
            self._tunnel.send(content[start : start + MAX_MESSAGE_SIZE], self._timeout)
        return len(content)

    def _check(self, allowed: bool, purpose: str) -> None:
        if self.closed:
            raise ValueError("the stream is closed")
        if not allowed:
            raise io.UnsupportedOperation(f"the stream is not open for {purpose}")


def make_file(tunnel: Messages, mode: str, encoding: str, timeout: Optional[float]) -> IO[Any]:
    """Return a buffered file over a tunnel; see Tunnel.makefile."""
    kind = mode.replace("b", "", 1)
    if kind not in MODES:
        raise ValueError(f"invalid mode {mode!r}; use 'r', 'w' or 'rw', with a 'b' at the end for bytes")
    raw = TunnelStream(tunnel, "r" in kind, "w" in kind, timeout)
    buffered: Any
    if kind == "r":
        buffered = io.BufferedReader(raw)
    elif kind == "w":
        buffered = io.BufferedWriter(raw)
    else:
        buffered = io.BufferedRWPair(raw, raw)
    return buffered if "b" in mode else io.TextIOWrapper(buffered, encoding)
