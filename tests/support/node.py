"""Test nodes: identities that open several connections, and tunnels between them."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional

from offset_common.wire.messages import InitRole
from tests.support.channel import Channel, KeyPair
from tests.support.peer import TIMEOUT, Address, Peer, announced_key


class Endpoint(NamedTuple):
    """Where a relay listens, and its public key."""

    address: Address
    public_key: bytes


class Node:
    """An identity that uses a relay; a `with` block closes all its connections at its end.

    Args:
        relay: the relay's address and key.
        released: whether to lay messages out and pad them as released nodes do.
    """

    def __init__(self, relay: Endpoint, released: bool = False) -> None:
        self.relay = relay
        self.released = released
        self.keys = KeyPair()
        self.public_key = self.keys.public_key
        self._open = contextlib.ExitStack()

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def dial(self, expected: Optional[bytes] = None) -> Peer:
        """Open a TCP connection and send nothing."""
        sock = socket.create_connection(self.relay.address, TIMEOUT)
        self._open.callback(sock.close)
        return Peer(sock, Channel(self.keys, expected, self.released))

    def open(self) -> Peer:
        """Open a connection and finish its handshake."""
        return self.dial(self.relay.public_key).handshake()

    def connect(self, key: bytes) -> Peer:
        """Ask for the node with that key."""
        return self.open().init(InitRole.CONNECT, key)

    def accept(self, key: bytes) -> Peer:
        """Accept a pending connect from that key."""
        return self.open().init(InitRole.ACCEPT, key)

    def listen(self) -> Peer:
        """Listen, and return once the relay announces connects to this listener."""
        listener = self.open().init(InitRole.LISTEN)
        deadline = time.monotonic() + TIMEOUT
        while not self._is_announced(listener):
            assert time.monotonic() < deadline, "the relay never announced a connect to the listener"
        return listener

    def _is_announced(self, listener: Peer) -> bool:
        # The relay doesn't confirm a listen, so a probe connects to it.
        with Node(self.relay) as prober:
            probe = prober.connect(self.public_key)
            while True:
                wait = 0.0 if listener.has_unread_bytes else TIMEOUT
                ready, _, _ = select.select([probe.sock, listener.sock], [], [], wait)
                assert ready or not wait, "the relay neither announces a connect nor closes it"
                if listener.sock in ready or listener.has_unread_bytes:
                    message = listener.receive_any()
                    if message is None:
                        continue  # it was a keepAlive
                    key = announced_key(message)
                    if key == prober.public_key:
                        listener.reject(key)
                        assert probe.messages_until_end() == []
                        return True
                    listener.keep_announced(key)
                else:
                    assert probe.messages_until_end() == []
                    return False


def make_tunnel(caller: Node, callee: Node, listener: Peer) -> tuple[Peer, Peer]:
    """Join two nodes; return the caller's end and the callee's once a message has passed."""
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    far.send(b"accepted")
    assert near.receive() == b"accepted"
    return near, far


def assert_joined(near: Peer, far: Peer) -> None:
    """Check that a message passes each way."""
    near.send(b"there")
    assert far.receive() == b"there"
    far.send(b"back")
    assert near.receive() == b"back"


def assert_listening(caller: Node, callee: Node, listener: Peer) -> None:
    """Check that a caller reaches a listener."""
    assert_joined(*make_tunnel(caller, callee, listener))


def meet(relay: Endpoint) -> None:
    """Check that two nodes meet through a relay."""
    with Node(relay) as caller, Node(relay) as callee:
        assert_listening(caller, callee, callee.listen())


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """Run each task in a thread; return their results."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result(3 * TIMEOUT) for future in [pool.submit(task) for task in tasks]]


def send_all(peer: Peer, messages: Sequence[bytes]) -> None:
    """Send messages in order."""
    for message in messages:
        peer.send(message)


def receive_count(peer: Peer, count: int) -> list[bytes]:
    """Return the next messages."""
    return [peer.receive() for _ in range(count)]


def exchange(near: Peer, far: Peer, there: Sequence[bytes], back: Sequence[bytes]) -> None:
    """Send both ways at once, and check what arrives."""
    _, _, at_far, at_near = at_once(
        lambda: send_all(near, there),
        lambda: send_all(far, back),
        lambda: receive_count(far, len(there)),
        lambda: receive_count(near, len(back)),
    )
    assert at_far == list(there)
    assert at_near == list(back)
