"""Use a relay as two nodes do, with throwaway keys, and record everything.

    connector   connect, and at once the first message of the end-to-end handshake
    listener    listen; receive the announcement of the connect; at the end, a keepAlive
    acceptor    accept, the end-to-end handshake, a message each way

One thread does all this, so the order of the frames is the order in which the nodes sent and received them.

Source: sections 2 to 7 of docs/protocol.md.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import time
from collections.abc import Iterator
from typing import Callable, Optional

from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.client import ConnectionLost, Deadline, Dialing, find_addresses, open_socket
from offset_common.client.dialing import READ_SIZE, close_socket
from offset_common.constants import KEEPALIVE_INTERVAL, KEY_SALT_SIZE, PRIVATE_KEY_SIZE, RAND_NONCE_SIZE
from offset_common.errors import OffsetError, OperatorError, PeerError
from offset_common.identity import Identity
from offset_common.illustrate.recording import (
    ACCEPTOR,
    CONNECTOR,
    LISTENER,
    Exchange,
    RecordedFrame,
    Recording,
)
from offset_common.tickets import RelayTicket
from offset_common.tools.failures import Failure, NotAnnouncedError, explain
from offset_common.tools.pair_check import POLL_INTERVAL, RETRY_DELAY
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole

THERE = b"hello from the connector"
BACK = b"hello to you from the acceptor"
CLOSE_TIMEOUT = 1.0  # seconds for the relay to close a connection
MIN_TIMEOUT = 0.001  # seconds; 0 would make a socket non-blocking
MAX_FRAMES = 200  # in a run; 35 are needed


class RecordingFailed(OperatorError):
    """The relay does not do what a run needs.

    Args:
        failure: what went wrong, and what to check.
    """

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}; {failure.advice}")


class _RandomBytes:
    """A source of random bytes that remembers them."""

    def __init__(self) -> None:
        self._drawn: list[bytes] = []

    def __call__(self, size: int) -> bytes:
        self._drawn.append(os.urandom(size))
        return self._drawn[-1]

    @property
    def exchange(self) -> Exchange:
        """The random bytes of a handshake; all later ones are padding."""
        nonce, private_key, salt = self._drawn[:3]
        assert (len(nonce), len(private_key), len(salt)) == (RAND_NONCE_SIZE, PRIVATE_KEY_SIZE, KEY_SALT_SIZE)
        return Exchange(nonce.hex(), private_key.hex(), salt.hex())


class _Link:
    """One connection of a node to the relay.

    Args:
        name: CONNECTOR, LISTENER or ACCEPTOR.
        dialing: a TCP connection; `handshake` completes it.
        random: its source of random bytes.
        deadline: returns the deadline of the current step.
    """

    def __init__(
        self, name: str, dialing: Dialing, random: _RandomBytes, deadline: Callable[[], Deadline]
    ) -> None:
        self.name = name
        self.random = random
        self._dialing = dialing
        self._deadline = deadline
        self._end_to_end: Optional[KeepaliveChannel] = None
        self.end_to_end_random = _RandomBytes()

    def handshake(self) -> None:
        """Exchange versions and complete the handshake."""
        self._dialing.exchange_versions(self._deadline())
        self._dialing.complete_handshake(self._deadline())

    def send(self, message: bytes) -> None:
        """Send a message to the relay, or through it."""
        self._dialing.connection.send(message, time.monotonic())
        self._flush()

    def receive(self, timeout: Optional[float] = None) -> bytes:
        """Wait for the next message.

        Raises:
            TimeoutError: no message arrived in time.
            ConnectionLost: the relay closed the connection.
        """
        left = self._deadline().left()
        end = time.monotonic() + min(left, timeout or left)
        while True:
            event = self._dialing.connection.next_event(time.monotonic())
            self._flush()
            if isinstance(event, MessageReceived):
                return event.data
            self._dialing.sock.settimeout(max(MIN_TIMEOUT, end - time.monotonic()))
            try:
                data = self._dialing.sock.recv(READ_SIZE)
            except socket.timeout:
                raise TimeoutError("no message arrived in time") from None
            except OSError as error:
                raise ConnectionLost(f"the connection broke: {error.strerror}") from error
            if not data:
                raise ConnectionLost("the relay closed the connection")
            self._dialing.connection.receive_data(data)

    def start_end_to_end(self, peer: bytes) -> None:
        """Send the first message of the handshake with the node at the other end."""
        now = time.monotonic()
        self._end_to_end = KeepaliveChannel(self._dialing.identity, now, peer, self.end_to_end_random)
        self._forward()

    def receive_end_to_end(self) -> Optional[bytes]:
        """Receive one message for the end-to-end channel; return its data, or None during its handshake."""
        assert self._end_to_end is not None
        event = self._end_to_end.receive_payload(self.receive(), time.monotonic())
        self._forward()
        return None if event is None or isinstance(event, HandshakeCompleted) else event.data

    def send_end_to_end(self, message: bytes) -> None:
        """Send a message that the relay can't read."""
        assert self._end_to_end is not None
        self._end_to_end.send(message, time.monotonic())
        self._forward()

    def send_keepalive(self) -> None:
        """Send the keepAlive that is normally sent after KEEPALIVE_INTERVAL."""
        self._dialing.connection.handle_time(self._dialing.connection.last_sent + KEEPALIVE_INTERVAL)
        self._flush()

    def close(self) -> None:
        """Close the connection once the relay has closed its side, or after CLOSE_TIMEOUT."""
        close_socket(self._dialing.sock, CLOSE_TIMEOUT)

    def _forward(self) -> None:
        assert self._end_to_end is not None
        for payload in self._end_to_end.outgoing:
            self.send(payload)
        self._end_to_end.outgoing.clear()

    def _flush(self) -> None:
        data = self._dialing.connection.data_to_send()
        if data:
            self._dialing.sock.settimeout(max(MIN_TIMEOUT, self._deadline().left()))
            self._dialing.sock.sendall(data)


class Recorder:
    """Records one run.

    Args:
        ticket: the relay's ticket.
        timeout: seconds for each step.
    """

    def __init__(self, ticket: RelayTicket, timeout: float) -> None:
        self._ticket = ticket
        self._timeout = timeout
        self._deadline = Deadline(timeout)
        self._step = "name lookup"
        self._connecting, self._listening = Identity.generate(), Identity.generate()
        self._frames: list[RecordedFrame] = []
        self._links: list[_Link] = []

    def run(self) -> Recording:
        """Return the recording of a run.

        Raises:
            RecordingFailed: a step failed.
        """
        try:
            listener, connector, acceptor = self._run()
        except (OffsetError, TimeoutError) as error:
            raise RecordingFailed(explain(self._step, error, self._ticket)) from error
        except OSError as error:
            lost = ConnectionLost(f"the connection broke: {error.strerror}")
            raise RecordingFailed(explain(self._step, lost, self._ticket)) from error
        finally:
            for link in self._links:
                link.close()
        return Recording(
            date=datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
            relay=self._ticket.public_key.hex(),
            connecting_node=self._connecting.seed.hex(),
            listening_node=self._listening.seed.hex(),
            exchanges={link.name: link.random.exchange for link in (connector, listener, acceptor)},
            end_to_end={link.name: link.end_to_end_random.exchange for link in (connector, acceptor)},
            frames=self._frames,
        )

    def _run(self) -> tuple[_Link, _Link, _Link]:
        listener = self._open(LISTENER, self._listening)
        with self._naming("listen"):
            listener.send(InitConnection(InitRole.LISTEN).encode())
        connector = self._connect(listener)
        acceptor = self._open(ACCEPTOR, self._listening)
        with self._naming("accept"):
            acceptor.send(InitConnection(InitRole.ACCEPT, self._connecting.public_key).encode())
        with self._naming("end-to-end handshake"):
            acceptor.start_end_to_end(self._connecting.public_key)
            for receiver in (connector, acceptor, acceptor, connector):
                receiver.receive_end_to_end()
        with self._naming("message there"):
            connector.send_end_to_end(THERE)
            acceptor.receive_end_to_end()
        with self._naming("message back"):
            acceptor.send_end_to_end(BACK)
            connector.receive_end_to_end()
        with self._naming("keepAlive"):
            listener.send_keepalive()
        return listener, connector, acceptor

    def _connect(self, listener: _Link) -> _Link:
        """Connect until the relay announces it to the listener; only that attempt stays in the recording."""
        while True:
            connector = self._open(CONNECTOR, self._connecting)
            with self._naming("connect"):
                connector.send(InitConnection(InitRole.CONNECT, self._listening.public_key).encode())
                connector.start_end_to_end(self._listening.public_key)
                if self._is_announced(listener, connector):
                    return connector
            connector.close()
            self._links.remove(connector)
            self._frames = [frame for frame in self._frames if frame.connection != CONNECTOR]
            time.sleep(min(RETRY_DELAY, self._deadline.left()))

    def _is_announced(self, listener: _Link, connector: _Link) -> bool:
        """Return whether the relay announces a connect to the listener; False if it closes the connect."""
        while self._deadline.left():
            with contextlib.suppress(TimeoutError):
                IncomingConnection.decode(listener.receive(POLL_INTERVAL))
                return True
            try:
                connector.receive(MIN_TIMEOUT)
            except TimeoutError:
                continue
            except ConnectionLost:
                return False
        raise NotAnnouncedError(f"the relay at {self._ticket.address} did not announce the connect")

    def _open(self, name: str, identity: Identity) -> _Link:
        """Connect to the relay and do the handshake."""
        with self._naming("TCP connection"):
            found = find_addresses(self._ticket.address, self._deadline)
            sock = open_socket(self._ticket.address, found, self._deadline)
        random = _RandomBytes()

        def observe(direction: str, value: object) -> None:
            if isinstance(value, bytes):
                if len(self._frames) == MAX_FRAMES:
                    raise PeerError(
                        f"the relay sends more frames than a run needs; {MAX_FRAMES} were recorded"
                    )
                self._frames.append(RecordedFrame(name, direction, value.hex()))

        dialing = Dialing(sock, self._ticket, identity, observe, random)
        link = _Link(name, dialing, random, lambda: self._deadline)
        self._links.append(link)
        with self._naming("handshake"):
            link.handshake()
        return link

    @contextlib.contextmanager
    def _naming(self, step: str) -> Iterator[None]:
        """Start the time limit of a step, and name the step if it fails."""
        self._step = step
        self._deadline = Deadline(self._timeout)
        yield
