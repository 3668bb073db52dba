"""Goes through a relay the whole way as two nodes would, step by step, and measures it.

    listener:   name lookup, TCP connection, version, handshake, listen
    connector:  connect to the listener's key --> the listener is told
    listener:   accept, on a connection of its own --> a message each way, round trips, bulk

Both nodes are made up for the check: nobody else meets them.

Source: sections 2, 4 and 7 of docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional, Protocol

from offset_common.channel.secure_channel import Observer
from offset_common.client import (
    Deadline,
    Dialing,
    Incoming,
    Listener,
    Tunnel,
    accept,
    connect,
    find_addresses,
    open_socket,
    start_listener,
)
from offset_common.errors import ConnectionEnded, OffsetError, PeerError
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.failures import Failure, explain, not_announced

ROUND_TRIPS = 200  # messages there and back, at most
ROUND_TRIP_SIZE = 64  # bytes of each
ROUND_TRIP_SECONDS = 2.0  # seconds for all of them, at most
BULK_SIZE = 32 * 1024  # bytes of a message
BULK_SECONDS = 2.0
GLANCE = 0.05  # seconds between two looks at whether a connect came too early
RETRY = 0.1  # seconds before another connect
THERE = b"hello from the connector"
BACK = b"hello to you from the listener"


class StepDone(NamedTuple):
    """A step that succeeded.

    Args:
        name: of the step.
        seconds: that it took.
        detail: what else there is to say, or nothing.
    """

    name: str
    seconds: float
    detail: str


class RoundTrips(NamedTuple):
    """The times of messages there and back, in seconds."""

    number: int
    p50: float
    p99: float


class Bulk(NamedTuple):
    """What passed in one direction as fast as it would, in bytes and seconds."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes a second."""
        return self.size / self.seconds


class Watcher(Protocol):
    """Is told how the check goes, as it goes."""

    def begins(self, step: str, timeout: float) -> None:
        """A step begins, which takes `timeout` seconds at most."""

    def done(self, step: StepDone) -> None:
        """It succeeded."""

    def observer(self, connection: str) -> Optional[Observer]:
        """What is to be told of the frames of a connection: "listener", "connector" or "acceptor"."""


class StepFailed(Exception):
    """Ends the check; does not leave this module."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class RelayCheck:
    """One check of one relay.

    Args:
        ticket: of the relay.
        watcher: is told how it goes.
        timeout: seconds that each step may take.
        measure: whether round trips and bulk are measured at the end.
    """

    def __init__(self, ticket: RelayTicket, watcher: Watcher, timeout: float, measure: bool = True) -> None:
        self.ticket = ticket
        self.steps: list[StepDone] = []
        self.failure: Optional[Failure] = None
        self.round_trips: Optional[RoundTrips] = None
        self.bulk: Optional[Bulk] = None
        self._watcher = watcher
        self._timeout = timeout
        self._measure = measure
        self._node = Identity.generate()  # listens, and accepts
        self._other = Identity.generate()  # connects
        self._open = contextlib.ExitStack()

    def run(self) -> bool:
        """Go the whole way, or to the first step that fails; return whether all succeeded."""
        try:
            with self._open:
                self._go()
        except StepFailed as failed:
            self.failure = failed.failure
        return self.failure is None

    def _go(self) -> None:
        listener = self._listen()
        connector, incoming = self._connect(listener)
        with self._step("accept") as say:
            acceptor = accept(
                self.ticket,
                self._node,
                incoming.public_key,
                timeout=self._timeout,
                observer=self._watcher.observer("acceptor"),
            )
            self._close_later(acceptor)
            say("on a connection of its own")
        with self._step("message there"):
            connector.send(THERE)
            self._expect(acceptor, THERE)
        with self._step("message back"):
            acceptor.send(BACK)
            self._expect(connector, BACK)
        if self._measure:
            with self._step("round trips"):
                self.round_trips = measure_round_trips(connector, acceptor, self._timeout)
            with self._step("bulk", BULK_SECONDS + self._timeout):
                self.bulk = measure_bulk(connector, acceptor, self._timeout)

    def _listen(self) -> Listener:
        """Take the steps to the relay one by one, and listen."""
        with self._step("name lookup") as say:
            found = find_addresses(self.ticket.address, Deadline(self._timeout))
            say(", ".join(dict.fromkeys(str(each.sockaddr[0]) for each in found)))
        with self._step("TCP connection") as say:
            sock = open_socket(self.ticket.address, found, Deadline(self._timeout))
            host, port, *_ = sock.getpeername()
            say(f"to {host} port {port}")
        dialing = Dialing(sock, self.ticket, self._node, self._watcher.observer("listener"))
        with self._step("version"):
            dialing.exchange_versions(Deadline(self._timeout))
        with self._step("handshake") as say:
            dialing.complete_handshake(Deadline(self._timeout))
            say("the relay proved the key of the ticket")
        with self._step("listen") as say:
            listener = start_listener(dialing)
            self._close_later(listener)
            say("asked for; a relay does not answer that")
        return listener

    def _connect(self, listener: Listener) -> tuple[Tunnel, Incoming]:
        """Connect until the listener is told: the relay may not have come to its listen before."""
        deadline = Deadline(self._timeout)
        with self._step("connect") as say:
            tries = 0
            while deadline.left():
                tries += 1
                tunnel = connect(
                    self.ticket,
                    self._other,
                    self._node.public_key,
                    timeout=self._timeout,
                    observer=self._watcher.observer("connector"),
                )
                self._close_later(tunnel)
                incoming = wait_for_incoming(listener, tunnel, deadline)
                if incoming is not None:
                    say("announced to the listener" + (f", at try {tries}" if tries > 1 else ""))
                    return tunnel, incoming
                time.sleep(min(RETRY, deadline.left()))
            raise StepFailed(not_announced("connect", self._timeout, self.ticket))

    def _expect(self, tunnel: Tunnel, message: bytes) -> None:
        if tunnel.receive(self._timeout) != message:
            raise PeerError("the tunnel gave another message than was sent into it")

    def _close_later(self, connection: object) -> None:
        # Without waiting for the delivery: all that matters has come by then.
        assert isinstance(connection, (Tunnel, Listener))
        self._open.callback(connection.close, 0)

    @contextlib.contextmanager
    def _step(self, name: str, timeout: Optional[float] = None) -> Iterator[Callable[[str], None]]:
        self._watcher.begins(name, timeout or self._timeout)
        detail: list[str] = []
        start = time.perf_counter()
        try:
            yield detail.append
        except (OffsetError, TimeoutError) as error:
            raise StepFailed(explain(name, error, self.ticket)) from error
        done = StepDone(name, time.perf_counter() - start, "".join(detail))
        self.steps.append(done)
        self._watcher.done(done)


def wait_for_incoming(listener: Listener, tunnel: Tunnel, deadline: Deadline) -> Optional[Incoming]:
    """Return the connect as the listener is told of it, or None if the relay turned it away.

    Args:
        listener: is to be told.
        tunnel: of the connect.
        deadline: None once it is over, too.

    Raises:
        ConnectionEnded: the listener is over.
    """
    while deadline.left():
        try:
            return listener.receive(min(GLANCE, deadline.left()))
        except TimeoutError:
            pass
        try:
            tunnel.receive(0)
        except TimeoutError:
            continue
        except ConnectionEnded:
            return None
    return None


def measure_round_trips(one: Tunnel, other: Tunnel, timeout: float) -> RoundTrips:
    """Send messages from one end to the other and back, one at a time.

    Args:
        one: where the time is taken.
        other: where they turn round.
        timeout: seconds for each.
    """
    times: list[float] = []
    end = time.perf_counter() + ROUND_TRIP_SECONDS
    message = bytes(ROUND_TRIP_SIZE)
    while len(times) < ROUND_TRIPS and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        one.send(message, timeout)
        other.send(other.receive(timeout), timeout)
        one.receive(timeout)
        times.append(time.perf_counter() - start)
    times.sort()
    return RoundTrips(len(times), times[len(times) // 2], times[len(times) * 99 // 100])


def measure_bulk(sender: Tunnel, receiver: Tunnel, timeout: float) -> Bulk:
    """Send as fast as it goes for BULK_SECONDS, and count what came out at the other end by then.

    Args:
        sender: the end where messages go in.
        receiver: the end where they are counted.
        timeout: seconds without a message after which the tunnel is called stuck.
    """
    over = threading.Event()
    thread = threading.Thread(target=_keep_sending, args=(sender, over), daemon=True)
    start = time.perf_counter()
    size = 0
    thread.start()
    try:
        while time.perf_counter() - start < BULK_SECONDS:
            size += len(receiver.receive(timeout))
    finally:
        over.set()
        seconds = time.perf_counter() - start
        sender.close(0)  # ends a send that waits for room
        thread.join()
    return Bulk(size, seconds)


def _keep_sending(sender: Tunnel, over: threading.Event) -> None:
    message = bytes(BULK_SIZE)
    with contextlib.suppress(OffsetError):
        while not over.is_set():
            sender.send(message)
