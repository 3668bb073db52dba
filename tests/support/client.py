"""Tunnels of the package's own client, and a relay's end of a connection for a test to play."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Optional

import pytest

from offset_common.address import Address
from offset_common.client import Deadline, Listener, Server, Step, Tunnel, connect, listen
from offset_common.client.dialing import SocketAddress
from offset_common.errors import ConnectError
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.pair_check import wait_for_incoming
from tests.support.channel import Channel, KeyPair
from tests.support.peer import Peer
from tests.support.process import PATIENCE
from tests.support.relay_process import LOCALHOST, RelayProcess

NUMBER_SIZE = 6  # bytes of the number at the start of a large message
both_ways = pytest.mark.parametrize("end_to_end", [False, True], ids=["plain", "end to end"])


def start_listening(relay: RelayProcess, identity: Identity) -> Listener:
    """Listen, and return once the relay announces connects."""
    listener = listen(relay.ticket, identity)
    deadline = Deadline(PATIENCE)
    while deadline.left():
        with connect_to(relay, identity) as probe:
            incoming = wait_for_incoming(listener, probe, deadline)
            if incoming is not None:
                incoming.reject()
                return listener
    raise AssertionError("the relay never announced a connect to the listener")


def connect_to(relay: RelayProcess, node: Identity) -> Tunnel:
    """Connect to a node with a new identity."""
    return connect(relay.ticket, Identity.generate(), node.public_key)


@contextlib.contextmanager
def tunnel_pair(relay: RelayProcess, end_to_end: bool = False) -> Iterator[tuple[Tunnel, Tunnel]]:
    """Yield the two ends of a tunnel: the connecting one and the accepting one."""
    node, other = Identity.generate(), Identity.generate()
    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect, relay.ticket, other, node.public_key, end_to_end=end_to_end)
        incoming = listener.receive(PATIENCE)
        assert incoming.public_key == other.public_key
        with incoming.accept(end_to_end=end_to_end) as accepted, connecting.result(PATIENCE) as connected:
            # Wait until the relay has joined them: a connect that ends before it is accepted is gone.
            accepted.send(b"joined")
            assert connected.receive(PATIENCE) == b"joined"
            yield connected, accepted


def echo(tunnel: Tunnel) -> None:
    """Return every message."""
    for message in tunnel:
        tunnel.send(message)


@contextlib.contextmanager
def echoing(ticket: RelayTicket, end_to_end: bool = True) -> Iterator[bytes]:
    """Run a node that listens, and returns every message; yield its key."""
    identity = Identity.generate()
    server = Server(ticket, identity, echo, allow=None, end_to_end=end_to_end)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield identity.public_key
    finally:
        server.stop()
        thread.join(PATIENCE)


def send_all(tunnel: Tunnel, messages: Iterable[bytes]) -> None:
    """Send messages in order."""
    for message in messages:
        tunnel.send(message)


def fill(tunnel: Tunnel) -> list[bytes]:
    """Send large messages until sending blocks; return the number at the start of each."""
    sent: list[bytes] = []
    with contextlib.suppress(TimeoutError):
        while True:
            number = b"%06d" % len(sent)
            tunnel.send(number + bytes(500_000), timeout=1.0)
            sent.append(number)
            assert len(sent) < 1000, "sending never waits"
    return sent


@contextlib.contextmanager
def refused(kind: type[ConnectError], step: Step, sentence: str) -> Iterator[None]:
    """Expect an error of a step."""
    with pytest.raises(kind, match=sentence) as error:
        yield
    assert error.value.step is step


def client_threads() -> int:
    """Return how many threads the client has in this process."""
    return sum(thread.name.startswith("offset ") for thread in threading.enumerate())


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    directory = Path("/proc/self/fd")
    return sum(1 for _ in directory.iterdir()) if directory.exists() else 0


def ticket_for(port: int, host: str = LOCALHOST) -> RelayTicket:
    """Return a ticket with a key whose private key is unknown."""
    return RelayTicket(Identity.generate().public_key, Address(host, port))


def wait_for_end(sock: socket.socket) -> None:
    """Read until the connection ends."""
    with contextlib.suppress(OSError):
        while sock.recv(65536):
            pass


@contextlib.contextmanager
def fake_server(serve: Callable[[socket.socket], object]) -> Iterator[RelayTicket]:
    """Run `serve` with the first connection, in a thread."""
    with socket.create_server((LOCALHOST, 0)) as server, ThreadPoolExecutor() as pool:

        def run() -> None:
            sock, _ = server.accept()
            with sock:
                sock.settimeout(PATIENCE)
                serve(sock)

        served = pool.submit(run)
        try:
            yield ticket_for(server.getsockname()[1])
            served.result(PATIENCE)
        finally:
            server.shutdown(socket.SHUT_RDWR)  # a test that failed may have made no connection


def play_relay(sock: socket.socket, keys: KeyPair) -> Peer:
    """Act as a relay up to the InitConnection of the other side."""
    peer = Peer(sock, Channel(keys)).handshake()
    peer.receive()
    return peer


@contextlib.contextmanager
def fake_relay(serve: Callable[[Peer], object]) -> Iterator[RelayTicket]:
    """Let `serve` play the relay on the first connection, after its InitConnection."""
    keys = KeyPair()
    with fake_server(lambda sock: serve(play_relay(sock, keys))) as ticket:
        yield RelayTicket(keys.public_key, ticket.address)


class InnerPeer:
    """A test peer's inner channel, over the messages of a plain tunnel.

    Args:
        tunnel: carries the channel's payloads.
        keys: the identity that it proves.
        expected: the key that the other node must have, or None for any.
    """

    def __init__(self, tunnel: Tunnel, keys: KeyPair, expected: Optional[bytes] = None) -> None:
        self.channel = Channel(keys, expected, version=False)
        self._tunnel = tunnel
        self.channel.start()
        self._send_outgoing()

    def send(self, message: bytes) -> None:
        """Send one message."""
        self._tunnel.send(self.channel.seal(message))

    def start_rekey(self) -> None:
        """Ask for new keys."""
        self._tunnel.send(self.channel.start_rekey())

    def receive_any(self) -> Optional[bytes]:
        """Take one payload; return its message, or None if it carries none."""
        message = self.channel.receive(self._tunnel.receive(PATIENCE))
        self._send_outgoing()
        return message

    def _send_outgoing(self) -> None:
        for payload in self.channel.outgoing:
            self._tunnel.send(payload)
        self.channel.outgoing.clear()


@contextlib.contextmanager
def silent_address() -> Iterator[SocketAddress]:
    """Yield an address that does not answer: the system drops connections that its queue has no room for."""
    with contextlib.ExitStack() as open_sockets:
        server = open_sockets.enter_context(socket.socket())
        server.bind((LOCALHOST, 0))
        server.listen(0)
        for _ in range(3):
            filler = open_sockets.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        yield SocketAddress(socket.AF_INET, server.getsockname())
