"""Both sides of stforward in this process, where a test can break things under them."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, TypeVar

from offset_common.address import Address
from offset_common.forward.display import Display
from offset_common.forward.doors import Forwarding
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.peers import Peers
from offset_common.forward.reach import Reach, ReachOptions
from offset_common.forward.services import Service
from offset_common.forward.share import Options, Share
from offset_common.forward.traffic import Traffic
from tests.forward.programs import Setting
from tests.support.process import PATIENCE
from tests.support.relay_process import LOCALHOST

T = TypeVar("T")


class Record(Display):
    """Records the kinds of events."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.kinds: list[str] = []

    def event(self, kind: str, text: str, /, **fields: object) -> None:
        self.kinds.append(kind)


class BothSides:
    """An event loop in a thread, a share of one port, and the other side.

    Args:
        setting: their files and their relay.
        port: what is shared.
        wait: seconds that a new connection waits for the share.
    """

    def __init__(self, setting: Setting, port: int, wait: float = PATIENCE) -> None:
        self.loop = EventLoop()
        self.welcomes: queue.Queue[object] = queue.Queue()
        self.display = Record()
        self.share = Share(
            self.loop,
            setting.ticket,
            setting.home.identity,
            {"echo": Service("echo", Address(LOCALHOST, port))},
            Peers(setting.home.directory),
            Options("home", frozenset([setting.laptop.identity.public_key]), False, 100, PATIENCE),
            self.display,
        )
        self.reach = Reach(
            self.loop,
            setting.code,
            setting.laptop.identity,
            ReachOptions("laptop", "home", wait, PATIENCE),
            self.display,
            self.welcomes.put,
            self.welcomes.put,
        )
        self.traffic = Traffic(self.loop, self.display)
        self._forwarding = Forwarding(self.reach, self.traffic, 100, self.display)
        self._thread = threading.Thread(target=self.loop.run)

    def in_loop(self, call: Callable[[], T]) -> T:
        """Call a function in the loop's thread; return its result."""
        results: queue.Queue[T] = queue.Queue()
        self.loop.call_soon_threadsafe(lambda: results.put(call()))
        return results.get(timeout=PATIENCE)

    def connect(self) -> tuple[socket.socket, queue.Queue[str]]:
        """Return a local connection to the service, and a queue that gets the reason when it ends."""
        ours, theirs = socket.socketpair()
        ours.settimeout(PATIENCE)
        reasons: queue.Queue[str] = queue.Queue()
        self.in_loop(lambda: self._forwarding.forward(theirs, "echo", "the test", reasons.put))
        return ours, reasons

    @contextmanager
    def running(self) -> Iterator[BothSides]:
        """Run the loop during the block."""
        self._thread.start()
        try:
            yield self
        finally:
            self.in_loop(self.share.stop)
            self.in_loop(self.reach.stop)
            for thread in threading.enumerate():  # a connection that it opens is closed in the loop
                if thread.name in ("offset connect", "offset accept"):
                    thread.join(PATIENCE)
            self.loop.call_soon_threadsafe(self.loop.stop)
            self._thread.join(PATIENCE)
            for sock in list(self.loop._events):  # not ended yet
                sock.close()
            self.loop.close()
