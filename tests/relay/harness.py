"""A relay without a process: its real loop and sessions, socketpairs, and a clock that the test advances."""

from __future__ import annotations

import logging
import math
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.identity import Identity
from offset_common.relay.addresses import SystemAddress
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import LOGGER, RelayLog
from offset_common.relay.log_format import format_text
from offset_common.relay.policy import Policy, PolicyRelay
from offset_common.relay.server import Relay
from offset_common.relay.sockets import set_timeouts
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole, RejectConnection

PATIENCE = 60.0  # seconds of real time until a test fails
MakePolicy = Callable[[PolicyRelay], Policy]
LONGEST_WAIT = 0.001  # seconds of real time that a round waits for sockets and threads
IN_TIME, LATE = 0.5, 2.0  # seconds before and after a deadline: they are met a tick or a second late


class LineRecorder(logging.Handler):
    """Keeps the lines that the relay logs."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Format at once: a traceback is cut after its record is written."""
        self.lines.append(format_text(record, False))


class End(NamedTuple):
    """How a connection ended."""

    connection: SocketConnection
    reason: CloseReason
    detail: str


class ObservedRelay(Relay):
    """A relay that records how its connections end."""

    def __init__(
        self, limits: Limits, clock: Callable[[], float], workers: int, make_policy: MakePolicy
    ) -> None:
        self.ends: list[End] = []
        super().__init__(Identity.generate(), [], limits, RelayLog(None), clock, workers, make_policy)

    def _closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        self.ends.append(End(connection, reason, detail))
        super()._closed(connection, reason, detail)


def no_policy(relay: PolicyRelay) -> Policy:
    """Return a policy that allows everything."""
    return Policy()


class Harness:
    """A relay whose event loop is run by the test.

    Args:
        limits: the relay's.
        workers: processes that forward for tunnels.
        make_policy: makes the operator's.
    """

    def __init__(
        self, limits: Optional[Limits] = None, workers: int = 1, make_policy: MakePolicy = no_policy
    ) -> None:
        self._now = float(math.ceil(time.monotonic()))
        self.log = LineRecorder()
        LOGGER.addHandler(self.log)
        limits = limits or Limits(handshake_threads=2)
        self.relay = ObservedRelay(limits, self.clock, workers, make_policy)
        self.identity = self.relay.identity
        self.loop = self.relay.loop
        self.loop.add_periodic(lambda: None, lambda: self.clock() + LONGEST_WAIT)
        self.ends = self.relay.ends
        self.overloaded = False  # whether the loop will never be without work
        self.peers: list[TestPeer] = []

    def clock(self) -> float:
        """Return the time of the relay's clock."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock, and handle all that is due: on a slow machine, that takes many rounds."""
        self._now += seconds
        self.run_rounds(3)
        self.run_until(lambda: self.overloaded or self.is_idle())

    def is_idle(self) -> bool:
        """Return whether the loop would wait for a peer, a thread or the clock."""
        return self.loop._time_to_wait() > 0 and not self.loop._selector.select(0)

    def run_rounds(self, count: int = 5) -> None:
        """Run some rounds of the loop."""
        for _ in range(count):
            self.loop.run_once()

    def run_until(self, happened: Callable[[], bool]) -> None:
        """Run rounds until something has happened."""
        give_up = time.monotonic() + PATIENCE
        while not happened():
            assert time.monotonic() < give_up, self.log.lines[-10:]
            self.loop.run_once()

    def connect_socket(self, address: SystemAddress = ("127.0.0.1", 5000)) -> socket.socket:
        """Make the relay accept a connection from `address`; return the other end of the socket."""
        ours, theirs = socket.socketpair()
        set_timeouts(ours)
        theirs.setblocking(False)
        self.relay.entrance.accept(ours, address)
        return theirs

    def admit(self, identity: Optional[Identity] = None, address: str = "127.0.0.1") -> TestPeer:
        """Return a peer that is authenticated; its handshake takes no thread and no time."""
        theirs = self.connect_socket((address, 5000))
        connection = next(reversed(self.relay.admission.all()))
        assert isinstance(connection, SocketConnection)
        theirs.recv(100)  # the version
        identity = identity or Identity.generate()
        client = Connection(identity, self.loop.now, self.identity.public_key)
        server = Connection(self.identity, self.loop.now)
        while not (client.established and server.established):
            for source, sink in ((client, server), (server, client)):
                sink.receive_data(source.data_to_send())
                event = sink.next_event(self.loop.now)
                assert event is None or isinstance(event, HandshakeCompleted)
        connection.adopt(server, b"")
        self.relay.rendezvous.await_init(connection)
        peer = TestPeer(self, connection, theirs, client, identity)
        self.peers.append(peer)
        return peer

    def listener(self, identity: Optional[Identity] = None, address: str = "127.0.0.1") -> TestPeer:
        """Return a peer that listens."""
        return self.admit(identity, address).request(InitRole.LISTEN)

    def pending(self, listener: TestPeer, address: str = "127.0.0.1") -> TestPeer:
        """Return a peer whose connect waits for `listener`."""
        return self.admit(address=address).request(InitRole.CONNECT, listener.key)

    def tunnel(
        self, address: str = "127.0.0.1", far_address: Optional[str] = None
    ) -> tuple[TestPeer, TestPeer]:
        """Return the connecting and the accepting end of a tunnel."""
        far_address = far_address or address
        listener = self.listener(address=far_address)
        near = self.pending(listener, address)
        assert listener.incoming_key() == near.key
        far = self.admit(listener.identity, far_address).request(InitRole.ACCEPT, near.key)
        return near, far

    def end_of(self, connection: SocketConnection) -> End:
        """Wait until `connection` ends; return how it did."""
        self._poll_coarsely()
        self.run_until(lambda: any(end.connection is connection for end in self.ends))
        (end,) = [end for end in self.ends if end.connection is connection]
        return end

    def reason_of(self, connection: SocketConnection) -> CloseReason:
        """Wait until `connection` ends; return why it did."""
        return self.end_of(connection).reason

    def _poll_coarsely(self) -> None:
        """Advance to the next coarse poll, if any listener is polled coarsely."""
        if any(connection.polled_coarsely for connection in self.relay.admission.all()):
            self.advance(1.0)

    def check_end(self) -> None:
        """Close all peers, and check that nothing is left in the relay."""
        for peer in self.peers:
            peer.sock.close()
        self._poll_coarsely()
        self.run_until(lambda: not len(self.relay.admission))
        ended = [end.connection for end in self.ends]
        assert len(ended) == len(set(ended)), "a connection has more than one end"
        left = (len(self.relay.rendezvous.registry), self.relay.buffers.used, self.relay.buffers.waiting)
        timed = list(self.loop.deadlines._tick_of)
        assert left == (0, 0, 0), "registry entries, buffered bytes, connections that wait for buffers"
        assert not any(isinstance(each, SocketConnection) for each in timed)

    def release(self) -> None:
        """Release all descriptors and threads."""
        self.relay.close()
        LOGGER.removeHandler(self.log)


class TestPeer:
    """The peer at the other end of a connection.

    Args:
        harness: runs the relay while the peer waits.
        connection: the relay's end.
        sock: the peer's end, non-blocking.
        protocol: the peer's side of the protocol.
        identity: its key.
    """

    __test__ = False  # not a test class

    def __init__(
        self,
        harness: Harness,
        connection: SocketConnection,
        sock: socket.socket,
        protocol: Connection,
        identity: Identity,
    ) -> None:
        self.harness = harness
        self.connection = connection
        self.sock = sock
        self.protocol = protocol
        self.identity = identity
        self.key = identity.public_key
        self.messages: list[bytes] = []
        self.ended = False

    @property
    def state(self) -> State:
        """The state of the relay's end."""
        return State.CLOSED if self.connection.closed else self.connection.session.state

    def request(self, role: InitRole, key: Optional[bytes] = None) -> TestPeer:
        """Send the InitConnection, and wait until the relay has handled it."""
        self.send(InitConnection(role, key).encode())
        self.harness.run_until(lambda: self.state is not State.AWAITING_INIT)
        return self

    def encrypt(self, *messages: bytes) -> bytes:
        """Return the frames of messages, without sending them."""
        for message in messages:
            self.protocol.send(message, self.harness.loop.now)
        return self.protocol.data_to_send()

    def send(self, *messages: bytes) -> None:
        """Send messages in one piece."""
        self.write(self.encrypt(*messages))

    def send_sign_of_life(self) -> None:
        """Send a message, and wait until the relay has read it."""
        self.send(b"alive")
        self.harness.run_until(lambda: not select.select([self.connection.sock], [], [], 0)[0])

    def write(self, data: bytes) -> None:
        """Send bytes."""
        view = memoryview(data)
        give_up = time.monotonic() + PATIENCE
        while view:
            try:
                view = view[self.sock.send(view) :]
            except BlockingIOError:
                assert time.monotonic() < give_up, "the relay does not read"
                self.harness.loop.run_once()

    def write_until_paused(self, data: bytes) -> int:
        """Send as much of `data` as the relay takes; return how many bytes that was."""
        sent, idle = 0, False
        while not idle and sent < len(data):
            try:
                sent += self.sock.send(memoryview(data)[sent : sent + 50_000])
            except BlockingIOError:
                idle = self.harness.is_idle()
            self.harness.loop.run_once()
        return sent

    def has_message(self) -> bool:
        """Receive, and return whether there is a message."""
        try:
            data = self.sock.recv(1 << 20)
            self.ended = self.ended or not data
        except BlockingIOError:
            data = b""
        except ConnectionError:
            data, self.ended = b"", True
        self.protocol.receive_data(data)
        while (event := self.protocol.next_event(self.harness.loop.now)) is not None:
            if isinstance(event, MessageReceived):
                self.messages.append(event.data)
        return bool(self.messages)

    def has_ended(self) -> bool:
        """Receive, and return whether the relay has closed the connection."""
        self.has_message()
        return self.ended

    def receive(self) -> bytes:
        """Wait for the next message, and return it."""
        self.harness.run_until(self.has_message)
        return self.messages.pop(0)

    def wait_for_end(self) -> list[bytes]:
        """Wait until the relay closes the connection; return the messages before that."""
        self.harness.run_until(self.has_ended)
        messages, self.messages = self.messages, []
        return messages

    def incoming_key(self) -> bytes:
        """Wait for the next IncomingConnection, and return its key."""
        return IncomingConnection.decode(self.receive()).public_key

    def reject(self, key: bytes) -> None:
        """Reject a pending connect."""
        self.send(RejectConnection(key).encode())


def tcp_pair() -> tuple[socket.socket, socket.socket]:
    """Return two connected TCP sockets. Unix sockets would not do: they have no SO_RCVLOWAT and no reset."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        return server.accept()[0], client


def descriptors() -> list[str]:
    """Return the descriptors that this process has open."""
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


@contextmanager
def running(limits: Optional[Limits] = None, make_policy: MakePolicy = no_policy) -> Iterator[Harness]:
    """Run a relay; check at the end that no connection is left."""
    harness = Harness(limits, make_policy=make_policy)
    try:
        yield harness
        harness.check_end()
    finally:
        harness.release()


@contextmanager
def full_pool(harness: Harness) -> Iterator[BufferPool]:
    """Let another address fill the buffer pool, which is yielded, while the block runs."""
    pool = harness.relay.buffers
    other = pool.open_account("3.3.3.3")
    other.add(2 * pool.limit)
    yield pool
    other.add(-other.held)
