"""Traffic through a relay while it is upgraded: tunnels, a listener that comes back, and new connects."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Iterator
from functools import partial
from typing import Callable

from offset_common.wire.messages import InitRole
from tests.support.node import Endpoint, Node, make_tunnel
from tests.support.peer import Ended, Peer
from tests.support.process import PATIENCE

LAST = b"last"


class Tasks:
    """Tasks in threads that run until `finish`; their exceptions are faults."""

    def __init__(self) -> None:
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.faults: list[str] = []

    def _start(self, *tasks: Callable[[], None]) -> None:
        self._threads = [threading.Thread(target=self._guard, args=(task,), daemon=True) for task in tasks]
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Stop the tasks; check that none failed."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(PATIENCE)
        assert self.faults == []

    def _guard(self, task: Callable[[], None]) -> None:
        try:
            task()
        except Exception as error:
            self.faults.append(repr(error))


class Flow(Tasks):
    """One tunnel that carries messages both ways all the time; every byte is checked.

    Args:
        near: one end.
        far: the other one.
        seed: for the messages.
        pause: seconds after each message.
    """

    def __init__(self, near: Peer, far: Peer, seed: int, pause: float = 0.002) -> None:
        super().__init__()
        self._pause = pause
        self.received = [0, 0]  # messages at each end
        self._start(
            partial(self._send, near, seed),
            partial(self._send, far, seed + 1),
            partial(self._receive, far, seed, 1),
            partial(self._receive, near, seed + 1, 0),
        )

    def finish(self) -> None:
        """Send the last messages, and check that they arrive."""
        super().finish()
        assert not any(thread.is_alive() for thread in self._threads), "messages do not arrive"

    def stop(self) -> None:
        """Send no more; for a test that has failed."""
        self._stopping.set()

    def _send(self, peer: Peer, seed: int) -> None:
        messages = random.Random(seed)
        while not self._stopping.is_set():
            peer.send(messages.randbytes(messages.choice((1, 100, 1000, 20_000))))
            self._stopping.wait(self._pause)
        peer.send(LAST)

    def _receive(self, peer: Peer, seed: int, end: int) -> None:
        messages = random.Random(seed)
        while True:
            message = peer.receive()
            if message == LAST:
                return
            assert message == messages.randbytes(messages.choice((1, 100, 1000, 20_000))), "another message"
            self.received[end] += 1


class Newcomers(Tasks):
    """A node that listens all the time, and another one that connects to it again and again.

    Args:
        relay: the relay.
        callee: the node that listens.
    """

    def __init__(self, relay: Endpoint, callee: Node) -> None:
        super().__init__()
        self._relay = relay
        self._callee = callee
        self.met = 0  # tunnels
        self.listens = 0
        self.closed = 0  # connects that the relay closed
        self.greeted = 0  # connections that got the first frame of a relay
        self._connects_ended = threading.Event()
        self._start(self._listen_again, self._connect_again, partial(self._repeat, self._greet))

    def _repeat(self, task: Callable[[], None]) -> None:
        while not self._stopping.is_set():
            task()

    def _listen_again(self) -> None:
        # This continues until the last connect has ended, which would otherwise wait in vain for a listener.
        while not self._connects_ended.is_set():
            self._listen()

    def _connect_again(self) -> None:
        try:
            self._repeat(self._connect)
        finally:
            self._connects_ended.set()

    def _listen(self) -> None:
        with contextlib.suppress(Ended):
            listener = self._callee.open().init(InitRole.LISTEN)
            listener.sock.settimeout(0.5)
            self.listens += 1
            while not self._connects_ended.is_set():
                try:
                    key = listener.incoming()
                except socket.timeout:
                    listener.send_keepalive()
                    continue
                with contextlib.suppress(Ended):
                    tunnel = self._callee.accept(key)
                    tunnel.send(tunnel.receive()[::-1])
                    tunnel.messages_until_end()
                    tunnel.close()

    def _connect(self) -> None:
        with Node(self._relay) as caller:
            try:
                tunnel = caller.connect(self._callee.public_key)
                tunnel.send(b"hello")
                assert tunnel.receive() == b"olleh"
                self.met += 1
            except Ended:
                self.closed += 1

    def _greet(self) -> None:
        """Connect, and get the relay's version: nobody may be refused, or reset without an answer."""
        with socket.create_connection(self._relay.address, PATIENCE) as sock:
            assert sock.recv(12, socket.MSG_WAITALL) == bytes(7) + b"\4" + bytes(4)
            self.greeted += 1
        self._stopping.wait(0.002)


@contextlib.contextmanager
def traffic(relay: Endpoint, flows: int) -> Iterator[tuple[list[Flow], Newcomers]]:
    """Make traffic in the block; check afterwards that all of it arrived."""
    with contextlib.ExitStack() as started:
        made = []
        for number in range(flows):
            caller, callee = (started.enter_context(Node(relay)) for _ in range(2))
            near, far = make_tunnel(caller, callee, callee.listen())
            made.append(Flow(near, far, 2 * number))
            started.callback(made[-1].stop)
        newcomers = Newcomers(relay, started.enter_context(Node(relay)))
        yield made, newcomers
        newcomers.finish()
        for flow in made:
            flow.finish()
