"""Listening sockets for the address that an operator gives; accepted sockets inherit their options."""

from __future__ import annotations

import contextlib
import errno
import socket

from offset_common.address import Address
from offset_common.errors import ServiceError
from offset_common.relay.handshake_pool import prepare_socket

BACKLOG = 4096  # connections that the system holds until they are accepted


def listen_on(address: Address, socket_buffer: int = 0) -> list[socket.socket]:
    """Return a listening socket for each address that the host stands for.

    Args:
        address: a name, an IPv4 or an IPv6 address; port 0 for a free one.
        socket_buffer: bytes of memory for each of the two kernel buffers of an accepted socket; 0 leaves the
            size to the system.

    Raises:
        ServiceError: the name does not resolve, the address is in use, not of this host, or not allowed.
    """
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "not a name"
        raise ServiceError(f"cannot listen on {address}: the name does not resolve ({reason})") from None
    sockets: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, sockaddr in dict.fromkeys(found):
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            _bind(sock, (sockaddr[0], port, *sockaddr[2:]), socket_buffer)
            port = sock.getsockname()[1]  # a name's second address gets the port that its first one got
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise ServiceError(f"cannot listen on {address}: {_what_to_do(error, address)}") from None
    return sockets


def _bind(sock: socket.socket, sockaddr: object, socket_buffer: int) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # A message never waits for the Nagle timer.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    prepare_socket(sock)
    if socket_buffer:
        # The system doubles the value: half of what it counts is for its own bookkeeping.
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, socket_buffer // 2)
    if sock.family == socket.AF_INET6:
        # [::] takes IPv4 connections as well, where the system lets it.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    sock.bind(sockaddr)  # type: ignore[arg-type]
    sock.listen(BACKLOG)
    sock.setblocking(False)


def _what_to_do(error: OSError, address: Address) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; stop it, or choose another port"
    if error.errno in (errno.EACCES, errno.EPERM):
        return (
            f"this user has no right to port {address.port}; choose one from 1024 on, "
            "or allow it with CAP_NET_BIND_SERVICE"
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return "this host has no such address; 0.0.0.0 or [::] stand for all that it has"
    return error.strerror or str(error)
