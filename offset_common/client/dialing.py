"""The steps from a ticket to an authenticated connection with its relay.

    find_addresses --> open_socket --> Dialing.exchange_versions --> Dialing.complete_handshake

`dial` runs all of them. Each step has a timeout. A failed step raises RelayUnreachable or WrongRelay, which
names the step.
"""

from __future__ import annotations

import enum
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple, Optional, Union

from offset_common.address import Address
from offset_common.channel.connection import Connection
from offset_common.channel.events import Event
from offset_common.channel.handshake import RandomBytes, WrongPeerError
from offset_common.channel.secure_channel import Observer
from offset_common.client.arguments import check_identity, check_seconds, check_ticket
from offset_common.client.happy_eyeballs import connect_to_first
from offset_common.constants import FRAME_LENGTH_SIZE, HANDSHAKE_TIMEOUT, VERSION_SIZE
from offset_common.errors import ConnectError, PeerError, RelayUnreachable, WrongRelay
from offset_common.identity import Identity
from offset_common.networks import usable_results
from offset_common.threads import start_thread
from offset_common.tickets import RelayTicket

READ_SIZE = 4096  # bytes, more than a whole handshake


class Step(str, enum.Enum):
    """The steps to a tunnel, in order."""

    NAME = "name lookup"
    TCP = "TCP connection"
    VERSION = "version"
    HANDSHAKE = "handshake"
    CONNECT = "connect"
    END_TO_END = "end-to-end handshake"


class SocketAddress(NamedTuple):
    """One address of a host, as the system resolver returns it.

    Args:
        family: the address family of the socket.
        sockaddr: the argument of socket.connect.
    """

    family: socket.AddressFamily
    sockaddr: Any


class Deadline:
    """A time limit that several steps share.

    Args:
        seconds: the limit, counted from now.
    """

    def __init__(self, seconds: float) -> None:
        check_seconds(seconds)
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the remaining seconds, at least 0.0."""
        return max(0.0, self._end - time.monotonic())


def dial(
    ticket: RelayTicket,
    identity: Identity,
    timeout: float = HANDSHAKE_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Dialing:
    """Connect to a relay and complete the handshake.

    Args:
        ticket: the relay's address and the key that it must prove.
        identity: this node's identity.
        timeout: seconds for all steps together.
        observer: called with every payload and every message of each layer, or None.

    Raises:
        RelayUnreachable: the relay does not answer.
        WrongRelay: another program answers, or a relay with another key.
        TypeError: an argument has the wrong type.

    Source: sections 2 and 4 of docs/protocol.md.
    """
    check_ticket(ticket)
    check_identity(identity)
    deadline = Deadline(timeout)
    return dial_found(ticket, identity, find_addresses(ticket.address, deadline), deadline, observer)


def dial_found(
    ticket: RelayTicket,
    identity: Identity,
    found: Sequence[SocketAddress],
    deadline: Deadline,
    observer: Optional[Observer] = None,
) -> Dialing:
    """Do what `dial` does, for addresses that are already resolved.

    Args:
        ticket: the relay's name and the key that it must prove.
        identity: this node's identity.
        found: addresses of the relay; the first that accepts a connection is used.
        deadline: the time limit of all steps together.
        observer: as for `dial`.

    Raises:
        RelayUnreachable: the relay does not answer.
        WrongRelay: another program answers, or a relay with another key.
    """
    dialing = Dialing(open_socket(ticket.address, found, deadline), ticket, identity, observer)
    dialing.exchange_versions(deadline)
    dialing.complete_handshake(deadline)
    return dialing


def find_addresses(address: Address, deadline: Deadline) -> list[SocketAddress]:
    """Resolve the host of an address.

    Raises:
        RelayUnreachable: the host does not resolve, or the resolver does not answer in time.
    """
    result: list[Union[list[SocketAddress], ConnectError]] = []

    def look_up() -> None:
        try:
            result.append(resolve(address))
        except OSError as error:
            result.append(RelayUnreachable(Step.NAME, str(error)))

    # The system resolver has no timeout, so it runs in a thread that can be abandoned.
    try:
        thread = start_thread(look_up, "offset name lookup")
    except OSError as error:
        raise RelayUnreachable(Step.NAME, f"no lookup of {address.host}: {error}") from error
    thread.join(deadline.left())
    if not result:
        raise RelayUnreachable(Step.NAME, f"looking up {address.host} took more than {deadline.seconds:g} s")
    if isinstance(result[0], ConnectError):
        raise result[0]
    return result[0]


def resolve(address: Address) -> list[SocketAddress]:
    """Resolve the host of an address, however long the system's resolver takes.

    Raises:
        OSError: the host does not resolve.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "it is not a valid host name"
        raise OSError(f"the name {address.host} does not resolve: {reason}") from error
    return [SocketAddress(each[0], each[4]) for each in usable_results(address.host, found)]


def open_socket(address: Address, found: Sequence[SocketAddress], deadline: Deadline) -> socket.socket:
    """Open a TCP connection to the first address that accepts it.

    Args:
        address: the name to use in error messages.
        found: the result of `find_addresses`.
        deadline: the time limit of all attempts together; an address that does not answer holds up the next
            one for a quarter of a second only.

    Raises:
        RelayUnreachable: no address accepts the connection in time.
    """
    try:
        return connect_to_first(found, deadline.left)
    except socket.timeout:
        reason = f"no answer within {deadline.seconds:g} s"
    except OSError as error:
        reason = error.strerror or str(error)
    raise RelayUnreachable(Step.TCP, f"no TCP connection to {address}: {reason}")


def close_socket(sock: socket.socket, timeout: float) -> None:
    """Close a connection once the relay has closed its side, or after the timeout in seconds.

    Input is read and discarded until then: closing a socket that has unread input resets the connection.
    """
    deadline = Deadline(timeout)
    with sock, suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while left := deadline.left():
            sock.settimeout(left)
            if not sock.recv(READ_SIZE):
                return


class Dialing:
    """A TCP connection to a relay during version exchange and handshake.

    A step that fails closes the socket. After the last step, the caller owns `sock` and `connection`.

    Args:
        sock: a connected socket.
        ticket: the relay's address and the key that it must prove.
        identity: this node's identity.
        observer: called with every payload and every message of each layer, or None.
        random_bytes: the source of randomness.
    """

    def __init__(
        self,
        sock: socket.socket,
        ticket: RelayTicket,
        identity: Identity,
        observer: Optional[Observer] = None,
        random_bytes: RandomBytes = os.urandom,
    ) -> None:
        self.sock = sock
        self.ticket = ticket
        self.identity = identity
        self.observer = observer
        now = time.monotonic()
        self.connection = Connection(identity, now, ticket.public_key, random_bytes, observer)

    def exchange_versions(self, deadline: Deadline) -> None:
        """Send our version and first handshake message; receive the relay's version.

        Raises:
            WrongRelay: the peer is not a relay, or uses another protocol version.
            RelayUnreachable: the peer closed the connection, or did not answer in time.
        """
        failure = "is not a relay that this program can use"
        with self._step(Step.VERSION, "version exchange", failure, deadline):
            self._send(deadline)
            # Read the version frame only, so that an invalid handshake message fails the next step.
            missing = FRAME_LENGTH_SIZE + VERSION_SIZE
            while missing:
                missing -= self._receive(missing, deadline)
                self._next_event()

    def complete_handshake(self, deadline: Deadline) -> None:
        """Prove our identity, and verify that the relay has the ticket's key.

        Raises:
            WrongRelay: the relay did not prove its identity.
            RelayUnreachable: the relay closed the connection, or did not answer in time.
        """
        failure = "did not prove the identity in its ticket"
        with self._step(Step.HANDSHAKE, "handshake", failure, deadline):
            while self._next_event() is None:
                self._send(deadline)
                self._receive(READ_SIZE, deadline)
            self._send(deadline)

    @contextmanager
    def _step(self, step: Step, name: str, failure: str, deadline: Deadline) -> Iterator[None]:
        """Close the socket and raise a ConnectError if the step fails."""
        try:
            yield
        except PeerError as error:
            self.sock.close()
            reason = f"{self.ticket.address} {failure}: {error}"
            if isinstance(error, WrongPeerError):
                reason += "; check that this is the relay's newest ticket"
            raise WrongRelay(step, reason) from error
        except OSError as error:
            self.sock.close()
            if isinstance(error, socket.timeout):
                reason = f"did not complete the {name} within {deadline.seconds:g} s"
            else:
                reason = f"ended the connection during the {name}: {error.strerror or error}"
            raise RelayUnreachable(step, f"{self.ticket.address} {reason}") from error
        except BaseException:
            self.sock.close()
            raise

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
            raise ConnectionAbortedError("the peer closed it")
        self.connection.receive_data(data)
        return len(data)

    def _set_timeout(self, deadline: Deadline) -> None:
        left = deadline.left()
        if not left:
            raise socket.timeout
        self.sock.settimeout(left)
