"""Standard input and output as a socket, for `--stdio`.

They may be pipes, files or a terminal, which a selector cannot watch and which other processes share. So two
threads copy between them and one end of a socket pair; the event loop has the other end.
"""

from __future__ import annotations

import os
import select
import socket
from functools import partial
from typing import Callable, Optional, TypeVar

from offset_common.errors import os_error_sentence
from offset_common.forward.event_loop import EventLoop
from offset_common.threads import start_thread

READ_SIZE = 128 * 1024  # bytes

Result = TypeVar("Result")


class StandardStreams:
    """The standard streams of this process, as a socket.

    Args:
        loop: the event loop.
        failed: called with a reason when standard input cannot be read, or standard output cannot be written.
    """

    def __init__(self, loop: EventLoop, failed: Callable[[str], object]) -> None:
        self.sock, self._inner = socket.socketpair()
        self._loop = loop
        self._failed = failed
        self._written = False
        self._when_written: Optional[Callable[[], object]] = None
        start_thread(self._copy_input, "offset input")
        start_thread(self._copy_output, "offset output")

    def when_written(self, call: Callable[[], object]) -> None:
        """Call a function once everything that the socket received is written to standard output."""
        self._when_written = call
        if self._written:
            call()

    def _copy_input(self) -> None:
        try:
            while data := _when_ready(0, select.POLLIN, lambda: os.read(0, READ_SIZE)):
                self._inner.sendall(data)
            self._inner.shutdown(socket.SHUT_WR)
        except OSError as error:  # don't shut down: the input may be incomplete
            self._report_failure("cannot read standard input", error)

    def _copy_output(self) -> None:
        try:
            while data := self._inner.recv(READ_SIZE):
                while data:
                    data = data[_when_ready(1, select.POLLOUT, partial(os.write, 1, data)) :]
            os.close(1)  # the reader sees the end of this direction
        except OSError as error:
            self._report_failure("cannot write standard output", error)
        else:
            self._loop.call_soon_threadsafe(self._report_written)

    def _report_written(self) -> None:
        self._written = True
        if self._when_written is not None:
            self._when_written()

    def _report_failure(self, what: str, error: OSError) -> None:
        reason = f"{what}: {os_error_sentence(error)}"
        self._loop.call_soon_threadsafe(partial(self._failed, reason))


def _when_ready(descriptor: int, event: int, call: Callable[[], Result]) -> Result:
    """Call a function, again if another process has made the descriptor non-blocking."""
    while True:
        try:
            return call()
        except BlockingIOError:
            poll = select.poll()
            poll.register(descriptor, event)
            poll.poll()
