"""The steps from a ticket to a proven connection with its relay, one by one or all at once.

    find_addresses --> open_socket --> Dialing.exchange_versions --> Dialing.complete_handshake

Each step ends in time, and its failure is a ConnectError that names it.
"""

from __future__ import annotations

import enum
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any, Callable, Optional

from offset_common.address import Address
from offset_common.channel.connection import Connection
from offset_common.channel.events import Event
from offset_common.channel.secure_channel import Observer
from offset_common.constants import FRAME_LENGTH_SIZE, HANDSHAKE_TIMEOUT, VERSION_SIZE
from offset_common.errors import ConnectError, PeerError
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket

READ_SIZE = 4096  # bytes, more than a handshake has


class Step(str, enum.Enum):
    """What must succeed, in this order, before messages pass."""

    NAME = "name lookup"
    TCP = "TCP connection"
    VERSION = "version"
    HANDSHAKE = "handshake"
    CONNECT = "connect"
    END_TO_END = "end-to-end handshake"


class SocketAddress:
    """One address of a host, as the system's lookup gives it.

    Args:
        family: the address family of the socket.
        sockaddr: what socket.connect takes.
    """

    def __init__(self, family: socket.AddressFamily, sockaddr: Any) -> None:
        self.family = family
        self.sockaddr = sockaddr


class Deadline:
    """One time budget that several steps share.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, 0.0 once it is over."""
        return max(0.0, self._end - time.monotonic())


def dial(
    ticket: RelayTicket,
    identity: Identity,
    timeout: float = HANDSHAKE_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Dialing:
    """Take all the steps to a relay.

    Args:
        ticket: where the relay is, and the key that it must prove.
        identity: who we are.
        timeout: seconds for all of it.
        observer: told of every payload and of the value of every layer as it passes, or None.

    Raises:
        ConnectError: a step failed; its text is a sentence for a person.

    Source: sections 2 and 4 of docs/protocol.md.
    """
    deadline = Deadline(timeout)
    found = find_addresses(ticket.address, deadline)
    dialing = Dialing(open_socket(ticket.address, found, deadline), ticket, identity, observer)
    dialing.exchange_versions(deadline)
    dialing.complete_handshake(deadline)
    return dialing


def find_addresses(address: Address, deadline: Deadline) -> list[SocketAddress]:
    """Look up the host of `address`.

    Raises:
        ConnectError: it has no address, or nobody answers in time.
    """
    outcome: list[Callable[[], list[SocketAddress]]] = []
    # The system's lookup knows no timeout, so it gets a thread that may be left behind.
    thread = threading.Thread(target=lambda: outcome.append(_look_up(address)), daemon=True)
    thread.start()
    thread.join(deadline.left())
    if not outcome:
        raise ConnectError(Step.NAME, f"looking up {address.host} took more than {deadline.seconds:g} s")
    return outcome[0]()


def _look_up(address: Address) -> Callable[[], list[SocketAddress]]:
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a name"
        failure = ConnectError(Step.NAME, f"the name {address.host} does not resolve: {reason}")
        return lambda: _raise(failure)
    addresses = [SocketAddress(family, sockaddr) for family, _, _, _, sockaddr in found]
    return lambda: addresses


def _raise(error: Exception) -> Any:
    raise error


def open_socket(address: Address, found: Sequence[SocketAddress], deadline: Deadline) -> socket.socket:
    """Open a TCP connection to the first of the addresses that answers.

    Args:
        address: what an error names.
        found: what `find_addresses` gave.
        deadline: an address that is silent leaves an equal share of the time to each of the others.

    Raises:
        ConnectError: none of them answers in time.
    """
    reason = "it has no address"
    for index, each in enumerate(found):
        share = deadline.left() / (len(found) - index)
        if share <= 0:
            break
        try:
            return _open(each, share)
        except socket.timeout:
            reason = f"no answer within {deadline.seconds:g} s"
        except OSError as error:
            reason = error.strerror or str(error)
    raise ConnectError(Step.TCP, f"no TCP connection to {address}: {reason}")


def _open(address: SocketAddress, timeout: float) -> socket.socket:
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(address.sockaddr)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        sock.close()
        raise
    return sock


class Dialing:
    """A TCP connection to a relay on its way through version and handshake.

    A step that fails closes the socket. After the last step the socket and the connection are the caller's.

    Args:
        sock: connected; closed by a step that fails.
        ticket: whose key the relay must prove.
        identity: who we are.
        observer: told of every payload and of the value of every layer as it passes, or None.
    """

    def __init__(
        self,
        sock: socket.socket,
        ticket: RelayTicket,
        identity: Identity,
        observer: Optional[Observer] = None,
    ) -> None:
        self.sock = sock
        self.ticket = ticket
        self.identity = identity
        self.observer = observer
        self.connection = Connection(identity, time.monotonic(), ticket.public_key, observer=observer)

    def close(self) -> None:
        """Give up the connection."""
        self.sock.close()

    def exchange_versions(self, deadline: Deadline) -> None:
        """Send our version, and our first handshake message with it; take the relay's version.

        Raises:
            ConnectError: it is no relay, or one that speaks another version.
        """
        try:
            self._exchange_versions(deadline)
        except PeerError as error:
            raise self._failure(
                Step.VERSION, f"{self.ticket.address} is no relay that we can talk to: {error}"
            ) from error
        except OSError as error:
            raise self._network_failure(Step.VERSION, error, deadline) from error

    def complete_handshake(self, deadline: Deadline) -> None:
        """Prove our identity, and have the relay prove the ticket's.

        Raises:
            ConnectError: it did not.
        """
        try:
            while self._next_event() is None:
                self._send(deadline)
                self._receive(READ_SIZE, deadline)
            self._send(deadline)
        except PeerError as error:
            raise self._failure(
                Step.HANDSHAKE,
                f"the relay at {self.ticket.address} did not prove the identity of its ticket: {error}",
            ) from error
        except OSError as error:
            raise self._network_failure(Step.HANDSHAKE, error, deadline) from error

    def _exchange_versions(self, deadline: Deadline) -> None:
        self._send(deadline)
        # Not a byte more than the version is read, so that this step says nothing about the next.
        missing = FRAME_LENGTH_SIZE + VERSION_SIZE
        while missing:
            missing -= self._receive(missing, deadline)
            self._next_event()

    def _next_event(self) -> Optional[Event]:
        return self.connection.next_event(time.monotonic())

    def _send(self, deadline: Deadline) -> None:
        data = self.connection.data_to_send()
        if data:
            self._set_timeout(deadline)
            self.sock.sendall(data)

    def _receive(self, most: int, deadline: Deadline) -> int:
        self._set_timeout(deadline)
        data = self.sock.recv(most)
        if not data:
            raise ConnectionAbortedError("it closed")
        self.connection.receive_data(data)
        return len(data)

    def _set_timeout(self, deadline: Deadline) -> None:
        left = deadline.left()
        if not left:
            raise socket.timeout
        self.sock.settimeout(left)

    def _network_failure(self, step: Step, error: OSError, deadline: Deadline) -> ConnectError:
        address = self.ticket.address
        if isinstance(error, socket.timeout):
            return self._failure(step, f"{address} did not finish the {step.value} in {deadline.seconds:g} s")
        reason = error.strerror or str(error)
        return self._failure(step, f"{address} ended the connection during the {step.value}: {reason}")

    def _failure(self, step: Step, reason: str) -> ConnectError:
        self.close()
        return ConnectError(step, reason)
