"""Options of listening and connecting sockets, and the addresses of a host name.

Accepted sockets are blocking, with a timeout in the kernel; the event loop passes NO_WAIT with each call. So
a socket moves between the loop and a handshake thread without a system call.
"""

from __future__ import annotations

import socket
import struct
from typing import Any, NamedTuple

from offset_common.address import Address
from offset_common.errors import ServiceError
from offset_common.networks import usable_results
from offset_common.relay.addresses import SystemAddress
from offset_common.threads import start_thread

NO_WAIT = socket.MSG_DONTWAIT
BLOCKING_TIME = 0.005  # seconds that a handshake thread waits for a peer
RESOLVER_CHECK_INTERVAL = 0.1  # seconds
RESET = struct.pack("ii", 1, 0)  # for SO_LINGER: closing resets the connection

# A 32-bit system with 64-bit times has a different option number and struct timeval.
_TIMEVAL = "=qq" if socket.SO_RCVTIMEO == 66 else "ll"
_TIMEOUT = struct.pack(_TIMEVAL, int(BLOCKING_TIME), int(BLOCKING_TIME % 1 * 1_000_000))


class Resolved(NamedTuple):
    """One address of a host, as socket.getaddrinfo returns it."""

    family: int
    kind: int
    protocol: int
    name: str
    sockaddr: SystemAddress


def set_options(sock: socket.socket, socket_buffer: int) -> None:
    """Set the options of a listening socket, which accepted sockets inherit, or of a connecting one.

    The socket becomes non-blocking; accepted sockets do not inherit that.

    Args:
        sock: a socket that listens, or that will listen or connect.
        socket_buffer: bytes of memory for each of the two kernel buffers of a connected socket; 0 leaves the
            size to the system.

    Raises:
        OSError: the system refuses.
    """
    # No message waits for Nagle's algorithm.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    set_timeouts(sock)
    if socket_buffer:
        # The system doubles the value, for its own bookkeeping.
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, socket_buffer // 2)
    sock.setblocking(False)


def set_timeouts(sock: socket.socket) -> None:
    """Make blocking calls on `sock` end after `BLOCKING_TIME`; accepted sockets inherit it."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _TIMEOUT)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEOUT)


def resolve(address: Address) -> list[Resolved]:
    """Return the socket addresses of a host and port, without duplicates.

    Args:
        address: the host, which may be a name, and the port.

    Raises:
        ServiceError: the name does not resolve.
    """
    found: list[Any] = []
    reasons: list[str] = []

    def look_up() -> None:
        try:
            found.extend(
                socket.getaddrinfo(
                    address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
                )
            )
        except OSError as error:
            reasons.append(error.strerror or str(error))
        except UnicodeError:
            reasons.append("not a name")

    # Signals are handled between waits for a thread, but not in the system's resolver, which may take
    # a minute.
    thread = start_thread(look_up, "resolver")
    while thread.is_alive():
        thread.join(RESOLVER_CHECK_INTERVAL)
    if reasons:
        raise ServiceError(f"the name {address.host} does not resolve ({reasons[0]}); check its spelling")
    try:
        return [Resolved(*each) for each in usable_results(address.host, dict.fromkeys(found))]
    except OSError as error:
        raise ServiceError(str(error)) from None
