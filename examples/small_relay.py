#!/usr/bin/env python3
"""A complete Offset relay to read in a quarter of an hour: one thread for each connection.

Usage: small_relay.py --idfile FILE --laddr IP:PORT

Options:
  -i FILE, --idfile FILE       The identity file of the relay.
  -l IP:PORT, --laddr IP:PORT  The address to listen on.

Start at `serve`, the life of a connection. docs/small-relay.md leads from here to the real relay, which is in
offset_common/relay/, and measures each step: one thread for all connections (event_loop.py), handshakes in a
thread pool (handshake_pool.py), forwarding without decoding (channel/forwarder.py), bounded buffers
(buffer_pool.py), fair turns (fair_queue.py), admission control (admission.py), and a policy for operators.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import threading
from time import monotonic

sys.path.insert(0, f"{sys.path[0]}/..")

from offset_common.address import parse_listen_address
from offset_common.channel.connection import Connection
from offset_common.command_line import parse, run
from offset_common.constants import HANDSHAKE_TIMEOUT, IDLE_TIMEOUT, INIT_TIMEOUT
from offset_common.errors import OffsetError, SilenceError
from offset_common.identity import Identity, encode_key, load_identity
from offset_common.wire.messages import IncomingConnection, InitConnection, RejectConnection

places = threading.BoundedSemaphore(500)  # for connections; further connections wait for a place
listeners: dict[bytes, Peer] = {}  # by key, the newest of each
pending: dict[Peer, bytes] = {}  # connects, oldest first, with the keys that they ask for
lock = threading.Lock()  # guards these two


class Peer:
    """One connection. Its own thread receives; any thread may send."""

    def __init__(self, sock: socket.socket, identity: Identity) -> None:
        self.sock, self.channel = sock, Connection(identity, monotonic())
        self.busy = threading.Lock()  # held while the channel changes and its bytes are sent
        self.deadline = monotonic() + HANDSHAKE_TIMEOUT  # of the current step
        self.decided = threading.Event()  # set once this connect is accepted or rejected
        self.partner: Peer | None = None  # the other end of the tunnel

    def serve(self, address: str) -> None:
        """Serve the connection from its first byte to its last."""
        try:
            self.receive()  # the handshake
            self.deadline = monotonic() + INIT_TIMEOUT
            init = InitConnection.decode(self.receive())
            self.deadline = float("inf")
            roles = (self.listen, self.decide, self.connect)  # in the order of InitRole
            roles[init.role.value](init.public_key or self.channel.peer_public_key)
            while self.partner:  # the tunnel; the partner's thread does the same the other way
                self.channel.mark_received(monotonic())  # any wait was for others, not for this peer
                self.partner.send(self.receive())
        except (OffsetError, OSError) as error:
            print(f"{address}: {error}", file=sys.stderr)
        finally:
            pending.pop(self, None)
            if self.partner:
                self.partner.end()
            self.sock.close()
            places.release()

    def listen(self, key: bytes) -> None:
        """Serve a listener, which replaces an older one: receive its rejections, until it ends."""
        with lock:
            if key in listeners:
                listeners[key].end()
            listeners[key] = self
        try:
            while True:
                self.decide(RejectConnection.decode(self.receive()).public_key, accept=False)
        finally:
            with lock:
                if listeners.get(key) is self:
                    del listeners[key]

    def connect(self, key: bytes) -> None:
        """Announce a connect and wait without reading: the socket keeps early data, the idle timeout runs."""
        with lock:
            if not (listener := listeners.get(key)):
                raise ConnectionError("no listener")
            pending[self] = key
        listener.send(IncomingConnection(self.channel.peer_public_key).encode())
        while not self.decided.wait(1) and listeners.get(key) is listener:
            self.send()

    def decide(self, source: bytes, accept: bool = True) -> None:
        """Join this connection with the oldest pending connect from `source` to its key, or reject that."""
        with lock:
            for each, target in list(pending.items()):
                if (each.channel.peer_public_key, target) == (source, self.channel.peer_public_key):
                    if accept:
                        self.partner, each.partner = each, self
                    pending.pop(each, None)
                    each.decided.set()
                    return

    def send(self, *messages: bytes) -> None:
        """Send messages, and what the channel has to send: handshakes, keepalives, new keys."""
        if monotonic() > self.deadline:
            raise SilenceError("the peer took too long")
        with self.busy:
            self.channel.handle_time(monotonic())
            for message in messages:
                self.channel.send(message, monotonic())
            self.sock.sendall(self.channel.data_to_send())

    def receive(self) -> bytes:
        """Wait for the next message, which is empty when the handshake is complete."""
        while True:
            with self.busy:
                event = self.channel.next_event(monotonic())
            self.send()
            if event:
                return getattr(event, "data", b"")
            if select.select([self.sock], [], [], 1)[0]:
                if not (data := self.sock.recv(65536)):
                    raise ConnectionError("the peer closed the connection")
                self.channel.receive_data(data)

    def end(self) -> None:
        """End the connection after what was sent: the peer then closes it, and its thread ends."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_WR)


def main() -> None:
    values = parse(__doc__ or "", sys.argv[1:], "")
    identity, (host, port) = load_identity(values["--idfile"]), parse_listen_address(values["--laddr"])
    with socket.create_server((host, port), backlog=1024) as server:
        port, key = server.getsockname()[1], encode_key(identity.public_key)
        print(f"relay ready: address={host}:{port} public_key={key}", file=sys.stderr)
        while places.acquire():
            sock, (host, port, *_) = server.accept()
            sock.settimeout(IDLE_TIMEOUT)  # of `sendall`; `recv` never waits, because `select` did
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=Peer(sock, identity).serve, args=(f"{host}:{port}",), daemon=True).start()


if __name__ == "__main__":
    sys.exit(run("small_relay", main))
