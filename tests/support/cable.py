"""A TCP connection that can be cut: data is held back until it is restored, and neither side notices."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from functools import partial

from tests.support.relay_process import LOCALHOST


class Cable:
    """Forwards every connection to another port of this machine, unless it is cut.

    Args:
        target: the port.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._whole = threading.Event()
        self._whole.set()
        self._open = contextlib.ExitStack()
        self._server = self._open.enter_context(socket.create_server((LOCALHOST, 0)))
        self._open.callback(_shut_down, self._server)
        self.port: int = self._server.getsockname()[1]
        _start(self._accept)

    def cut(self) -> None:
        """Forward nothing from now on; new connections get no answer."""
        self._whole.clear()

    def mend(self) -> None:
        """Forward again, what was sent meanwhile first, as TCP does."""
        self._whole.set()

    def close(self) -> None:
        """Close all connections."""
        self._open.close()
        self.mend()

    def _accept(self) -> None:
        while True:
            _start(partial(self._join, self._server.accept()[0]))

    def _join(self, near: socket.socket) -> None:
        with near, socket.create_connection((LOCALHOST, self._target)) as far:
            for sock in (near, far):
                self._open.callback(_shut_down, sock)
            back = _start(partial(self._forward, far, near))
            self._forward(near, far)
            back.join()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # one of the two has closed it
            while data := source.recv(1 << 16):
                self._whole.wait()
                sink.sendall(data)
        _shut_down(sink, socket.SHUT_WR)


def _shut_down(sock: socket.socket, how: int = socket.SHUT_RDWR) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(how)


def _start(work: Callable[[], object]) -> threading.Thread:
    def run() -> None:
        with contextlib.suppress(OSError):  # the cable is closed, or its target refuses the connection
            work()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread
