"""Check a relay step by step, the way two nodes use it, and measure it.

    listener:   name lookup, TCP connection, version, handshake, listen
    connector:  connect to the listener's key --> announced to the listener
    listener:   accept, on a new connection --> a message in each direction, round trips, bulk

Both nodes have new random identities, so the check does not affect any real node.

Source: sections 2, 4 and 7 of docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Optional, Protocol, Union

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
from offset_common.tools.failures import Failure, NotAnnouncedError, explain

ROUND_TRIPS = 200  # messages in each direction, at most
ROUND_TRIP_SIZE = 64  # bytes of each
ROUND_TRIP_SECONDS = 2.0  # seconds for all of them, at most
BULK_SIZE = 32 * 1024  # bytes of a message
BULK_SECONDS = 2.0
POLL_INTERVAL = 0.05  # seconds between checks whether the relay closed a connect that came too early
RETRY_DELAY = 0.1  # seconds before the next connect
THERE = b"hello from the connector"
BACK = b"hello to you from the listener"


class StepDone(NamedTuple):
    """A step that succeeded.

    Args:
        name: its name.
        seconds: its duration.
        detail: additional information, or an empty string.
    """

    name: str
    seconds: float
    detail: str


class RoundTrips(NamedTuple):
    """The number of round trips and percentiles of their times in seconds."""

    number: int
    p50: float
    p99: float


class Bulk(NamedTuple):
    """The bytes received in one direction, and the seconds this took."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.size / self.seconds


class Watcher(Protocol):
    """Receives the progress of a check."""

    def step_started(self, step: str, timeout: float) -> None:
        """Handle the start of a step that may take `timeout` seconds."""

    def step_done(self, step: StepDone) -> None:
        """Handle the success of a step."""

    def observer(self, connection: str) -> Optional[Observer]:
        """Return an observer for "listener", "connector" or "acceptor", or None."""


class _StepFailed(Exception):
    """Stops the check. The failure is in RelayCheck.failure."""


class RelayCheck:
    """One check of one relay.

    Args:
        ticket: the relay's.
        watcher: receives the progress.
        timeout: seconds for each step.
        measure: measure round trips and throughput after the other steps.
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
        self._listening_node = Identity.generate()
        self._connecting_node = Identity.generate()
        self._connections = contextlib.ExitStack()

    def run(self) -> bool:
        """Run all steps, or up to the first that fails; return whether all succeeded."""
        with contextlib.suppress(_StepFailed), self._connections:
            self._run_steps()
        return self.failure is None

    def _run_steps(self) -> None:
        listener = self._listen()
        connector, incoming = self._connect(listener)
        with self._step("accept") as add_detail:
            acceptor = accept(
                self.ticket,
                self._listening_node,
                incoming.public_key,
                timeout=self._timeout,
                observer=self._watcher.observer("acceptor"),
            )
            self._close_at_end(acceptor)
            add_detail("on a new connection")
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
        """Connect to the relay step by step, and listen."""
        with self._step("name lookup") as add_detail:
            found = find_addresses(self.ticket.address, Deadline(self._timeout))
            add_detail(", ".join(dict.fromkeys(str(each.sockaddr[0]) for each in found)))
        with self._step("TCP connection") as add_detail:
            sock = open_socket(self.ticket.address, found, Deadline(self._timeout))
            host, port, *_ = sock.getpeername()
            add_detail(f"to {host} port {port}")
        dialing = Dialing(sock, self.ticket, self._listening_node, self._watcher.observer("listener"))
        with self._step("version"):
            dialing.exchange_versions(Deadline(self._timeout))
        with self._step("handshake") as add_detail:
            dialing.complete_handshake(Deadline(self._timeout))
            add_detail("the relay proved the key in the ticket")
        with self._step("listen") as add_detail:
            listener = start_listener(dialing)
            self._close_at_end(listener)
            add_detail("sent; a relay does not answer it")
        return listener

    def _connect(self, listener: Listener) -> tuple[Tunnel, Incoming]:
        """Connect until the listener receives it: the relay may process the listen after the connect."""
        deadline = Deadline(self._timeout)
        with self._step("connect") as add_detail:
            attempts = 0
            while deadline.left():
                attempts += 1
                tunnel = connect(
                    self.ticket,
                    self._connecting_node,
                    self._listening_node.public_key,
                    timeout=self._timeout,
                    observer=self._watcher.observer("connector"),
                )
                self._close_at_end(tunnel)
                incoming = wait_for_incoming(listener, tunnel, deadline)
                if incoming is not None:
                    add_detail(
                        "announced to the listener" + (f", attempt {attempts}" if attempts > 1 else "")
                    )
                    return tunnel, incoming
                time.sleep(min(RETRY_DELAY, deadline.left()))
            raise NotAnnouncedError(
                f"the relay at {self.ticket.address} did not announce the connect within {self._timeout:g} s"
            )

    def _expect(self, tunnel: Tunnel, message: bytes) -> None:
        if tunnel.receive(self._timeout) != message:
            raise PeerError("the message that arrived is not the one that was sent")

    def _close_at_end(self, connection: Union[Tunnel, Listener]) -> None:
        self._connections.callback(connection.close, 0)  # all messages that matter have arrived by then

    @contextlib.contextmanager
    def _step(self, name: str, timeout: Optional[float] = None) -> Iterator[Callable[[str], None]]:
        self._watcher.step_started(name, timeout or self._timeout)
        detail: list[str] = []
        start = time.perf_counter()
        try:
            yield detail.append
        except (OffsetError, TimeoutError) as error:
            self.failure = explain(name, error, self.ticket)
            raise _StepFailed from error
        done = StepDone(name, time.perf_counter() - start, "".join(detail))
        self.steps.append(done)
        self._watcher.step_done(done)


def wait_for_incoming(listener: Listener, tunnel: Tunnel, deadline: Deadline) -> Optional[Incoming]:
    """Return the connect that the listener receives, or None if the relay closed it.

    Args:
        listener: receives the connect.
        tunnel: the tunnel of the connect.
        deadline: return None after it.

    Raises:
        ConnectionEnded: the listener was closed.
    """
    while deadline.left():
        with contextlib.suppress(TimeoutError):
            return listener.receive(min(POLL_INTERVAL, deadline.left()))
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
        one: sends first; the time is measured here.
        other: returns each message.
        timeout: seconds for each message.
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
    """Send as fast as possible for BULK_SECONDS, and count the bytes received in that time.

    Args:
        sender: sends the messages; it is closed at the end.
        receiver: receives and counts them.
        timeout: seconds to wait for each message.
    """
    stop = threading.Event()
    thread = threading.Thread(target=_keep_sending, args=(sender, stop), daemon=True)
    start = time.perf_counter()
    size = 0
    thread.start()
    try:
        while time.perf_counter() - start < BULK_SECONDS:
            size += len(receiver.receive(timeout))
    finally:
        stop.set()
        seconds = time.perf_counter() - start
        sender.close(0)  # wakes a blocked send
        thread.join()
    return Bulk(size, seconds)


def _keep_sending(sender: Tunnel, stop: threading.Event) -> None:
    message = bytes(BULK_SIZE)
    with contextlib.suppress(OffsetError):
        while not stop.is_set():
            sender.send(message)
