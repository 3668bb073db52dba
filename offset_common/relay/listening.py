"""Listening sockets for the addresses that an operator gives."""

from __future__ import annotations

import contextlib
import errno
import logging
import socket
from collections.abc import Mapping, Sequence
from typing import Optional

from offset_common.address import Address
from offset_common.errors import ServiceError, UsageError, listen_error_sentence
from offset_common.networks import names_this_host
from offset_common.relay.addresses import SystemAddress, show_address
from offset_common.relay.log import log_event
from offset_common.relay.sockets import Resolved, resolve, set_options

BACKLOG = 4096  # connections that the system holds until they are accepted

_NOT_HERE = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})
"""This host has no IPv6 (or no IPv4), or does not have this address."""

_WILDCARDS = frozenset({"0.0.0.0", "::"})


def listen_on(addresses: Sequence[Address]) -> list[socket.socket]:
    """Return listening sockets for all `addresses`, as `listen_by_address` does."""
    by_address = listen_by_address(addresses)
    return [sock for sockets in by_address.values() for sock in sockets]


def listen_by_address(
    addresses: Sequence[Address],
    socket_buffer: int = 0,
    inherited: Optional[Mapping[Address, list[socket.socket]]] = None,
) -> dict[Address, list[socket.socket]]:
    """Return the listening sockets of each of `addresses`; a name may have several.

    Args:
        addresses: names, IPv4 or IPv6 addresses; port 0 for any free port.
        socket_buffer: as for `set_options`.
        inherited: the sockets of addresses that already have some.

    Raises:
        UsageError: an address is given twice.
        ServiceError: a name does not resolve; an address is in use, is not of this host, or is not allowed.
    """
    check_duplicates(addresses)
    by_address = {address: (inherited or {}).get(address, []) for address in addresses}
    for sock in [sock for found in by_address.values() for sock in found]:
        set_options(sock, socket_buffer)
    resolved = [[] if by_address[address] else resolve(address) for address in addresses]
    # [::] also accepts IPv4 connections, unless 0.0.0.0 with the same port is given.
    ipv4_ports = {address.port for address in addresses if address.host == "0.0.0.0" and address.port}
    sockets: list[socket.socket] = []
    try:
        for address, found in zip(addresses, resolved):
            if found:
                before = len(sockets)
                _listen_on_one(address, found, address.port in ipv4_ports, socket_buffer, sockets)
                by_address[address] = sockets[before:]
    except ServiceError:
        for sock in sockets:
            sock.close()
        raise
    return by_address


def check_duplicates(addresses: Sequence[Address]) -> None:
    """Check that each address is given once.

    Raises:
        UsageError: an address is given twice.
    """
    for index, address in enumerate(addresses):
        if address in addresses[:index]:
            raise UsageError(f"the address {address} is given twice; give each address once")


def _listen_on_one(
    address: Address,
    found: list[Resolved],
    ipv6_only: bool,
    socket_buffer: int,
    sockets: list[socket.socket],
) -> None:
    """Add the listening sockets for one address to `sockets`.

    If a name has several addresses, those that this host does not have are skipped, unless it has none of
    them: many hosts without IPv6 have `::1 localhost` in their hosts file.
    """
    port, before = address.port, len(sockets)
    left_out: list[tuple[str, OSError]] = []
    for each in found:
        sockaddr = (each.sockaddr[0], port, *each.sockaddr[2:])
        try:
            sock = _bind(each, sockaddr, ipv6_only, socket_buffer)
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise _cannot_listen(address, sockaddr, error, sockets) from None
            left_out.append((show_address(sockaddr), error))
        else:
            sockets.append(sock)
            port = sock.getsockname()[1]  # a name's other addresses get the port of its first one
    if len(left_out) == len(found):
        raise _cannot_listen(address, found[0].sockaddr, left_out[0][1], sockets)
    for shown, cause in left_out:
        reason = "IPv6 is off on this host" if _lacks_ipv6(shown) else cause.strerror
        log_event("address skipped", logging.WARNING, address=shown, given=str(address), reason=reason)
    names = [sock.getsockname() for sock in sockets[before:]]
    if names_this_host(address.host, [name[0] for name in names]):
        own = list(map(show_address, names))
        advice = f"this name leads to this host itself in /etc/hosts; write 0.0.0.0:{port}"
        log_event(
            "only this host can connect", logging.WARNING, address=own, given=str(address), advice=advice
        )
    if address.host == "::" and _lacks_ipv6(address.host):
        reason = "IPv6 is off on this host"
        log_event("only IPv4 is served", logging.WARNING, address=str(address), reason=reason)


def _bind(resolved: Resolved, sockaddr: SystemAddress, ipv6_only: bool, socket_buffer: int) -> socket.socket:
    """Return a listening socket.

    Raises:
        OSError: the system refuses.
    """
    sock = socket.socket(resolved.family, resolved.kind, resolved.protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        set_options(sock, socket_buffer)
        if resolved.family == socket.AF_INET6:
            with contextlib.suppress(OSError):  # a system on which programs cannot choose this
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, ipv6_only)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


def _cannot_listen(
    address: Address, sockaddr: SystemAddress, error: OSError, sockets: list[socket.socket]
) -> ServiceError:
    """Return the error for the operator; `sockets` are those that this program has already opened."""
    own = [show_address(name) for name in (sock.getsockname() for sock in sockets) if overlap(name, sockaddr)]
    if error.errno in _NOT_HERE and _lacks_ipv6(sockaddr[0]):
        what = f"IPv6 is off on this host; use an IPv4 address, such as 0.0.0.0:{address.port}"
    elif error.errno == errno.EADDRINUSE and own:
        what = f"this program already listens on {own[0]}; give only one of the two"
    else:
        what = listen_error_sentence(error, address.port)
    return ServiceError(f"cannot listen on {address}: {what}")


def overlap(one: SystemAddress, other: SystemAddress) -> bool:
    """Return whether a host cannot listen on both addresses at once."""
    return one[1] == other[1] and (one[0] == other[0] or not _WILDCARDS.isdisjoint((one[0], other[0])))


def _lacks_ipv6(host: str) -> bool:
    """Return whether `host` is an IPv6 address and IPv6 is off, in the kernel or by its settings."""
    if host.count(":") < 2:  # an IPv4 address may have one colon, before its port
        return False
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return True
    return False
