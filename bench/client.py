"""A node's blocking connection to the relay, with access to its channel keys."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Sequence
from typing import Optional

from bench.encoding import Plaintext, seal_frames
from bench.relay_process import RelayProcess
from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.constants import MAX_KEEPALIVE_PADDING_SENT
from offset_common.errors import OperatorError
from offset_common.identity import Identity
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole, KaMessage

TIMEOUT = 30.0  # seconds for a read or a write
READ_SIZE = 64 * 1024
MAX_CONNECTS = 100  # attempts to reach a listener


class Client:
    """An authenticated connection to the relay.

    Args:
        relay: the relay to connect to.
        identity: the identity of this node.
        init: the first message to send, if any.
        source: the IP address to connect from.
    """

    def __init__(
        self,
        relay: RelayProcess,
        identity: Identity,
        init: Optional[InitConnection] = None,
        source: str = "127.0.0.1",
    ) -> None:
        self.sock = socket.create_connection(("127.0.0.1", relay.port), TIMEOUT, (source, 0))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection = Connection(identity, time.monotonic(), relay.public_key)
        self._flush()
        while not isinstance(self._next_event(), HandshakeCompleted):
            pass
        if init is not None:
            self.send(init.encode())

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.connection.send(message, time.monotonic())
        self._flush()

    def send_keepalive(self) -> int:
        """Send a keepalive with the padding of our own nodes; return its size in bytes."""
        self.connection.secure_channel.send(KaMessage(None).encode(), MAX_KEEPALIVE_PADDING_SENT)
        return self._flush()

    def seal_frames(self, plaintexts: Sequence[Plaintext], count: int) -> bytearray:
        """Return the next `count` messages to the relay as sealed frames, reusing the plaintexts in turn."""
        sending = self.connection.secure_channel.sending
        frames = seal_frames(sending.key, sending.counter, plaintexts, count)
        sending.counter += count
        return frames

    def receive(self) -> bytes:
        """Return the next message."""
        while True:
            event = self._next_event()
            if isinstance(event, MessageReceived):
                return event.data

    def drain(self, keep: bool) -> None:
        """Read what has already arrived, so that it is not counted later.

        Args:
            keep: pass it to the channel, which must see every frame to decrypt later ones.
        """
        self.sock.setblocking(False)
        try:
            while True:
                data = self.sock.recv(READ_SIZE)
                if not data:
                    raise ConnectionError("the relay closed the connection")
                if keep:
                    self.connection.receive_data(data)
        except BlockingIOError:
            self.sock.settimeout(TIMEOUT)

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def _flush(self) -> int:
        data = self.connection.data_to_send()
        self.sock.sendall(data)
        return len(data)

    def _next_event(self) -> object:
        while True:
            event = self.connection.next_event(time.monotonic())
            self._flush()
            if event is not None:
                return event
            data = self.sock.recv(READ_SIZE)
            if not data:
                raise ConnectionError("the relay closed the connection")
            self.connection.receive_data(data)


class Tunnel:
    """Two nodes joined by the relay: `near` sent connect, `far` sent accept."""

    def __init__(self, near: Client, far: Client) -> None:
        self.near = near
        self.far = far

    def close(self) -> None:
        """Close both ends."""
        self.near.close()
        self.far.close()


def open_tunnels(relay: RelayProcess, count: int, source: str = "127.0.0.1") -> list[Tunnel]:
    """Return new tunnels; each has carried one message.

    Args:
        relay: the relay that joins them.
        count: the number of tunnels.
        source: the IP address of both nodes.
    """
    listening, connecting = Identity.generate(), Identity.generate()
    listener = Client(relay, listening, InitConnection(InitRole.LISTEN), source)
    listener_key, connecting_key = listening.public_key, connecting.public_key
    tunnels = []
    for _ in range(count):
        near = _connect(relay, connecting, listener_key, listener, source)
        far = Client(relay, listening, InitConnection(InitRole.ACCEPT, connecting_key), source)
        near.send(b"joined")
        assert far.receive() == b"joined"
        tunnels.append(Tunnel(near, far))
    listener.close()
    return tunnels


def _connect(relay: RelayProcess, identity: Identity, target: bytes, listener: Client, source: str) -> Client:
    """Return a connection that the relay has announced to the listener.

    The relay may handle a connect before an earlier listen on another connection; it then closes the
    connect, and this function tries again.
    """
    for _ in range(MAX_CONNECTS):
        near = Client(relay, identity, InitConnection(InitRole.CONNECT, target), source)
        poll = select.poll()
        for client in (listener, near):
            poll.register(client.sock, select.POLLIN)
        ready = [descriptor for descriptor, _ in poll.poll(TIMEOUT * 1000)]
        if listener.sock.fileno() in ready:
            assert IncomingConnection.decode(listener.receive()).public_key == identity.public_key
            return near
        near.close()
    raise OperatorError("the relay did not announce a connect to the listener")
