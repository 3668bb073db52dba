"""A proxy between nodes and a relay: it delays what passes, cuts it anew, and never changes a byte of it."""

from __future__ import annotations

import random
import selectors
import socket
import threading
import time
from collections import deque
from types import TracebackType
from typing import Optional

LONGEST_DELAY = 0.05  # seconds
TICK = 0.002  # seconds


class _Pipe:
    """One direction of one connection: pieces, each with the time at which it goes on."""

    def __init__(self, source: socket.socket, sink: socket.socket) -> None:
        self.source = source
        self.sink = sink
        self.pieces: deque[tuple[float, bytes]] = deque()
        self.ended = False
        self.closed = False


class Proxy:
    """Listens on a port of its own, and passes on in a thread of its own; used in a `with`.

    Args:
        target: where the relay is.
        seed: of all chance.
    """

    def __init__(self, target: tuple[str, int], seed: int) -> None:
        self._target = target
        self._chance = random.Random(seed)
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.setblocking(False)
        self.address: tuple[str, int] = self._server.getsockname()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ, None)
        self._pipes: list[_Pipe] = []
        self._stopped = False
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._stopped = True
        self._thread.join(5.0)
        for pipe in self._pipes:
            pipe.source.close()
            pipe.sink.close()
        self._server.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select(TICK):
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data)
            self._shuffle()

    def _accept(self) -> None:
        near, _ = self._server.accept()
        far = socket.create_connection(self._target)
        for source, sink in ((near, far), (far, near)):
            source.setblocking(False)
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            pipe = _Pipe(source, sink)
            self._pipes.append(pipe)
            self._selector.register(source, selectors.EVENT_READ, pipe)

    def _read(self, pipe: _Pipe) -> None:
        try:
            data = pipe.source.recv(self._chance.choice([1, 7, 100, 1000, 65536]))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            pipe.ended = True
            self._selector.unregister(pipe.source)
            return
        when = time.monotonic() + self._chance.random() ** 4 * LONGEST_DELAY
        if pipe.pieces:
            when = max(when, pipe.pieces[-1][0])  # never one before the other
        pipe.pieces.append((when, data))

    def _shuffle(self) -> None:
        """Pass on what is due, the pipes in any order."""
        self._chance.shuffle(self._pipes)
        now = time.monotonic()
        for pipe in self._pipes:
            while pipe.pieces and pipe.pieces[0][0] <= now and not pipe.closed:
                if not self._write(pipe):
                    break
            if pipe.ended and not pipe.pieces and not pipe.closed:
                pipe.closed = True
                try:
                    pipe.sink.shutdown(socket.SHUT_WR)
                except OSError:
                    pass  # it is gone

    def _write(self, pipe: _Pipe) -> bool:
        when, data = pipe.pieces[0]
        size = self._chance.randrange(1, len(data) + 1)
        try:
            taken = pipe.sink.send(data[:size])
        except BlockingIOError:
            return False
        except OSError:
            pipe.pieces.clear()
            return False
        if taken == len(data):
            pipe.pieces.popleft()
        else:
            pipe.pieces[0] = (when, data[taken:])
        return True
