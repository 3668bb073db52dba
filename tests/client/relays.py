"""What the tests of a node's side share: a relay in a thread, servers that a test plays itself."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable

import pytest

from offset_common.address import Address
from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.client import Listener, Step, Tunnel, connect, listen
from offset_common.errors import ConnectError
from offset_common.identity import Identity
from offset_common.relay.limits import Limits
from offset_common.relay.listening import listen_on
from offset_common.relay.log import Log
from offset_common.relay.server import Relay
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import InitConnection

LOCALHOST = "127.0.0.1"
NUMBER_SIZE = 6  # bytes of the number that a large message begins with
PATIENCE = 10.0  # seconds after which something that must come is missing
both_ways = pytest.mark.parametrize("end_to_end", [False, True], ids=["plain", "end to end"])


class RunningRelay:
    """A relay in a thread, and its ticket."""

    def __init__(self) -> None:
        identity = Identity.generate()
        self.relay = Relay(identity, listen_on(Address(LOCALHOST, 0)), Limits(), Log(None))
        port = int(self.relay.addresses[0].rpartition(":")[2])
        self.ticket = RelayTicket(identity.public_key, Address(LOCALHOST, port))
        self._thread = threading.Thread(target=self.relay.serve)
        self._thread.start()

    def listen(self, identity: Identity) -> Listener:
        """Listen, and return when the relay knows it."""
        before = self.relay.registry.listener_of(identity.public_key)
        listener = listen(self.ticket, identity)
        wait_until(lambda: self.relay.registry.listener_of(identity.public_key) not in (None, before))
        return listener

    def stop(self) -> None:
        self.relay.loop.adopt(self._stop_at_once)
        self._thread.join()
        assert self.relay.bugs == 0

    def _stop_at_once(self) -> None:
        self.relay.stop(0)
        self.relay.stop(0)


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.002)


def connect_to(running: RunningRelay, node: Identity) -> Tunnel:
    return connect(running.ticket, Identity.generate(), node.public_key)


@contextlib.contextmanager
def refused(step: Step, sentence: str) -> Iterator[None]:
    """Expect the ConnectError of a step."""
    with pytest.raises(ConnectError, match=sentence) as error:
        yield
    assert error.value.step is step


@contextlib.contextmanager
def tunnel_pair(running: RunningRelay, end_to_end: bool = False) -> Iterator[tuple[Tunnel, Tunnel]]:
    """Two ends of one tunnel: the connecting one, the accepting one."""
    node, other = Identity.generate(), Identity.generate()
    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect, running.ticket, other, node.public_key, end_to_end=end_to_end)
        incoming = listener.receive(PATIENCE)
        assert incoming.public_key == other.public_key
        with incoming.accept(end_to_end=end_to_end) as accepted, connecting.result(PATIENCE) as connected:
            yield connected, accepted


def send_all(tunnel: Tunnel, messages: Iterable[bytes]) -> None:
    for message in messages:
        tunnel.send(message)


def fill(tunnel: Tunnel) -> list[bytes]:
    """Send large messages until no more are taken; return the number that each begins with."""
    sent: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while True:
            number = b"%06d" % len(sent)
            tunnel.send(number + bytes(500_000), timeout=0.3)
            sent.append(number)
            assert len(sent) < 1000, "sending never waits"
    return sent


def threads() -> int:
    return sum(thread.name.startswith("offset ") for thread in threading.enumerate())


def descriptors() -> int:
    directory = Path("/proc/self/fd")
    return sum(1 for _ in directory.iterdir()) if directory.exists() else 0


def ticket_for(port: int, host: str = LOCALHOST) -> RelayTicket:
    return RelayTicket(Identity.generate().public_key, Address(host, port))


def wait_for_end(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


@contextlib.contextmanager
def fake_server(serve: Callable[[socket.socket], object]) -> Iterator[RelayTicket]:
    """Let `serve` have the first connection, in a thread."""
    with socket.create_server((LOCALHOST, 0)) as server, ThreadPoolExecutor() as pool:

        def run() -> None:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                serve(sock)

        served = pool.submit(run)
        yield ticket_for(server.getsockname()[1])
        served.result(PATIENCE)


class FakeRelay:
    """The relay's end of one connection, after the InitConnection."""

    def __init__(self, sock: socket.socket, identity: Identity) -> None:
        self.sock = sock
        self.connection = Connection(identity, 0.0)
        assert isinstance(self._event(), HandshakeCompleted)
        message = self._event()
        assert isinstance(message, MessageReceived)
        InitConnection.decode(message.data)

    def _event(self) -> object:
        while True:
            event = self.connection.next_event(0.0)
            self.sock.sendall(self.connection.data_to_send())
            if event is not None:
                return event
            self.connection.receive_data(self.sock.recv(65536))


@contextlib.contextmanager
def fake_relay(serve: Callable[[FakeRelay], object]) -> Iterator[RelayTicket]:
    """Let `serve` have the first connection once it is established."""
    identity = Identity.generate()
    with fake_server(lambda sock: serve(FakeRelay(sock, identity))) as ticket:
        yield RelayTicket(identity.public_key, ticket.address)
