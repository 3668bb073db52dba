"""A relay without a process: its real loop and roles, socketpairs, a clock that can be put forward."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Callable, NamedTuple, Optional

from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.identity import Identity
from offset_common.relay.limits import Limits
from offset_common.relay.log import Log
from offset_common.relay.server import Relay
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole, RejectConnection

PATIENCE = 10.0  # seconds
LONGEST_ROUND = 0.005  # seconds


class Lines(Log):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__(None)
        self.lines: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)


class End(NamedTuple):
    """How a link ended."""

    link: Link
    reason: CloseReason
    detail: str


class Rig:
    """A relay whose rounds a test runs.

    Args:
        limits: the relay's.
    """

    def __init__(self, limits: Optional[Limits] = None) -> None:
        self._ahead = 0.0
        self.log = Lines()
        self.identity = Identity.generate()
        limits = limits or Limits(handshake_threads=2)
        self.relay = Relay(self.identity, [], limits, self.log, self.clock)
        self.loop = self.relay.loop
        self.loop.next_time.append(lambda: self.clock() + LONGEST_ROUND)
        self.ends: list[End] = []
        self.mates: list[Mate] = []
        self._link_closed = self.relay.host.link_closed
        self.relay.host.link_closed = self._note_end

    def clock(self) -> float:
        """Return the time of the relay's clock."""
        return time.monotonic() + self._ahead

    def advance(self, seconds: float) -> None:
        """Put the clock forward, and do what is due then."""
        self._ahead += seconds
        self.rounds(3)

    def rounds(self, count: int = 5) -> None:
        """Run some rounds of the loop."""
        for _ in range(count):
            self.loop.run_round()

    def until(self, happened: Callable[[], bool]) -> None:
        """Run rounds until something has happened."""
        deadline = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < deadline, self.log.lines[-10:]
            self.loop.run_round()

    def enter(self, address: tuple[str, int] = ("127.0.0.1", 5000)) -> socket.socket:
        """Let somebody enter the lobby; return the other end of the socket."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        self.relay.lobby.enter(ours, address)
        return theirs

    def admit(self, identity: Optional[Identity] = None, address: str = "127.0.0.1") -> Mate:
        """Admit a peer whose handshake is done."""
        identity = identity or Identity.generate()
        client = Connection(identity, self.loop.now, self.identity.public_key)
        server = Connection(self.identity, self.loop.now)
        while not (client.established and server.established):
            for source, sink in ((client, server), (server, client)):
                sink.receive_data(source.data_to_send())
                event = sink.next_event(self.loop.now)
                assert event is None or isinstance(event, HandshakeCompleted)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        lobby = self.relay.lobby
        link = Link(self.relay.host, ours, f"{address}:5000", address, lobby)
        lobby.origins.enter(link)
        lobby.origins.busy(link)
        lobby.origins.back(link, True)
        link.connection = server
        lobby._prove(link)
        mate = Mate(self, link, theirs, client, identity)
        self.mates.append(mate)
        return mate

    def listener(self, identity: Optional[Identity] = None) -> Mate:
        """Admit a peer that listens."""
        return self.admit(identity).init(InitRole.LISTEN)

    def tunnel(self) -> tuple[Mate, Mate]:
        """Join two peers; return the connect and the accept."""
        listener = self.listener()
        near = self.admit().init(InitRole.CONNECT, listener.key)
        assert listener.incoming() == near.key
        far = self.admit(listener.identity).init(InitRole.ACCEPT, near.key)
        self.until(lambda: near.link.partner is far.link)
        return near, far

    def reason_of(self, link: Link) -> CloseReason:
        """Return why a link ended, once it has."""
        self.until(lambda: any(end.link is link for end in self.ends))
        (end,) = [end for end in self.ends if end.link is link]
        return end.reason

    def _note_end(self, link: Link, reason: CloseReason, detail: str) -> None:
        self.ends.append(End(link, reason, detail))
        self._link_closed(link, reason, detail)

    def close(self) -> None:
        """End everything, and see that nothing is left."""
        for mate in self.mates:
            mate.sock.close()
        self.until(lambda: not len(self.relay.lobby.origins))
        assert len(self.relay.registry) == 0
        assert self.relay.host.budget.used == 0
        assert len(self.relay.host.budget._holders) == 0
        self.relay.close()


class Mate:
    """The peer at the other end of a link.

    Args:
        rig: whose rounds it runs while it waits.
        link: the relay's end.
        sock: the peer's end, non-blocking.
        connection: the peer's side of the protocol.
        identity: who it is.
    """

    def __init__(
        self, rig: Rig, link: Link, sock: socket.socket, connection: Connection, identity: Identity
    ) -> None:
        self.rig = rig
        self.link = link
        self.sock = sock
        self.connection = connection
        self.identity = identity
        self.key = identity.public_key
        self.messages: list[bytes] = []
        self.ended = False

    def init(self, role: InitRole, key: Optional[bytes] = None) -> Mate:
        """Send the InitConnection, and see it taken."""
        before = self.link.handler
        self.send(InitConnection(role, key).encode())
        self.rig.until(lambda: self.link.closed or self.link.handler is not before)
        return self

    def sealed(self, *messages: bytes) -> bytes:
        """Return the frames of messages, without sending them."""
        for message in messages:
            self.connection.send(message, self.rig.loop.now)
        return self.connection.data_to_send()

    def send(self, *messages: bytes) -> None:
        """Send messages in one piece."""
        self.write(self.sealed(*messages))

    def write(self, data: bytes) -> None:
        """Send bytes."""
        view = memoryview(data)
        deadline = time.monotonic() + PATIENCE
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                assert time.monotonic() < deadline, "the relay does not read"
                self.rig.loop.run_round()

    def has_message(self) -> bool:
        """Take what came, if anything did; say whether a message is there."""
        try:
            data = self.sock.recv(1 << 20)
            self.ended = self.ended or not data
        except BlockingIOError:
            data = b""
        except ConnectionError:
            data, self.ended = b"", True
        self.connection.receive_data(data)
        while (event := self.connection.next_event(self.rig.loop.now)) is not None:
            if isinstance(event, MessageReceived):
                self.messages.append(event.data)
        return bool(self.messages)

    def has_ended(self) -> bool:
        """Take what came, if anything did; say whether the relay ended the connection."""
        self.has_message()
        return self.ended

    def receive(self) -> bytes:
        """Wait for the next message."""
        self.rig.until(self.has_message)
        return self.messages.pop(0)

    def wait_for_end(self) -> list[bytes]:
        """Return the messages that still come, once the relay has ended the connection."""
        self.rig.until(self.has_ended)
        messages, self.messages = self.messages, []
        return messages

    def incoming(self) -> bytes:
        """Wait for the next IncomingConnection; return its key."""
        return IncomingConnection.decode(self.receive()).public_key

    def reject(self, key: bytes) -> None:
        """Reject a waiting connect."""
        self.send(RejectConnection(key).encode())


@contextmanager
def running(limits: Optional[Limits] = None) -> Iterator[Rig]:
    """Run a rig, and see at the end that nothing is left of it."""
    rig = Rig(limits)
    yield rig
    rig.close()
