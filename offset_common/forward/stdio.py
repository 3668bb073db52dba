"""Standard input and output as a socket, for `--stdio`.

They may be pipes, files or a terminal, which a selector cannot watch and which other processes share. So two
threads copy between them and one end of a socket pair; the event loop has the other end.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress

READ_SIZE = 128 * 1024  # bytes


class StandardStreams:
    """The standard streams of this process, as a socket."""

    def __init__(self) -> None:
        self.sock, self._inner = socket.socketpair()
        self._written = threading.Event()
        for name, work in (("input", self._copy_input), ("output", self._copy_output)):
            threading.Thread(target=work, name=f"offset {name}", daemon=True).start()

    def wait_written(self, seconds: float) -> None:
        """Wait until everything that the socket received is written to standard output."""
        self._written.wait(seconds)

    def _copy_input(self) -> None:
        with suppress(OSError):
            while data := os.read(0, READ_SIZE):
                self._inner.sendall(data)
        with suppress(OSError):
            self._inner.shutdown(socket.SHUT_WR)

    def _copy_output(self) -> None:
        with suppress(OSError):
            while data := self._inner.recv(READ_SIZE):
                while data:
                    data = data[os.write(1, data) :]
            os.close(1)  # the reader sees the end of this direction
        self._written.set()
        # After a failed write, no more bytes are accepted.
        with suppress(OSError):
            self._inner.shutdown(socket.SHUT_RD)
