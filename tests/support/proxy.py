"""A proxy between nodes and a relay that delays and splits what passes, and never changes a byte."""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from collections import deque

MAX_DELAY = 0.05  # seconds
TICK = 0.002  # seconds
READ_SIZES = (1, 7, 100, 1000, 65536)


class _Direction:
    """One direction of one connection: pieces, each with the time at which it is passed on."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.ended = False  # at the source
        self.closed = False  # at the sink


class Proxy:
    """Listens on a port of its own and forwards in a thread of its own, within a `with`.

    Args:
        target: the relay's address.
        seed: of all random choices.
    """

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        self._target = target
        self._random = random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.address: tuple[str, int] = self._server.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._directions: list[_Direction] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(5.0)
        for direction in self._directions:
            direction.source.close()
        self._server.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopped.is_set():
            for key, _ in self._selector.select(TICK):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            self._random.shuffle(self._directions)
            for direction in self._directions:
                self._forward(direction)

    def _accept(self) -> None:
        near, _ = self._server.accept()
        far = socket.create_connection(self._target)
        for source, sink in ((near, far), (far, near)):
            source.setblocking(False)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._directions.append(_Direction(source, sink))
            self._selector.register(source, selectors.EVENT_READ, self._directions[-1])

    def _read(self, direction: _Direction) -> None:
        try:
            data = direction.source.recv(self._random.choice(READ_SIZES))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            direction.ended = True
            self._selector.unregister(direction.source)
            return
        when = time.monotonic() + self._random.random() ** 4 * MAX_DELAY
        if direction.pieces:
            when = max(when, direction.pieces[-1][0])  # bytes stay in order
        direction.pieces.append((when, data))

    def _forward(self, direction: _Direction) -> None:
        if direction.closed:
            return
        try:
            while direction.pieces and direction.pieces[0][0] <= time.monotonic():
                when, data = direction.pieces[0]
                count = direction.sink.send(data[: self._random.randrange(1, len(data) + 1)])
                direction.pieces.popleft()
                if count < len(data):
                    direction.pieces.appendleft((when, data[count:]))
            if direction.ended and not direction.pieces:
                direction.closed = True
                direction.sink.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            direction.closed = True
