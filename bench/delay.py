"""A TCP forwarder that delays everything, like a long line."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

READ_SIZE = 64 * 1024  # bytes


@contextmanager
def delayed(target: int, delay: float) -> Iterator[int]:
    """Forward to a port of this machine while the `with` block lasts; yield the port to connect to.

    Args:
        target: the port.
        delay: seconds in each direction.
    """
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_accept, args=(listening, target, delay), daemon=True).start()
        port: int = listening.getsockname()[1]
        yield port


def _accept(listening: socket.socket, target: int, delay: float) -> None:
    with suppress(OSError):
        while True:
            near, _ = listening.accept()
            far = socket.create_connection(("127.0.0.1", target))
            for source, sink in ((near, far), (far, near)):
                sink.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                line: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
                threading.Thread(target=_read, args=(source, line, delay), daemon=True).start()
                threading.Thread(target=_write, args=(line, sink), daemon=True).start()


def _read(source: socket.socket, line: SimpleQueue[tuple[float, bytes]], delay: float) -> None:
    data = b"?"
    while data:
        data = b""
        with suppress(OSError):
            data = source.recv(READ_SIZE)
        line.put((time.monotonic() + delay, data))


def _write(line: SimpleQueue[tuple[float, bytes]], sink: socket.socket) -> None:
    with suppress(OSError):
        while True:
            when, data = line.get()
            time.sleep(max(0.0, when - time.monotonic()))
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            sink.sendall(data)
