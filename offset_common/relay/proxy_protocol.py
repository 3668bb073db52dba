"""The PROXY header, versions 1 and 2: the client's address at the start of a load balancer's connection.

Only addresses that the operator trusts may send one, and they must: without the header, a balancer's
connections would all count as one address. Nothing behind the header is taken from the socket, so the
handshake that follows stays there.

Source: HAProxy's doc/proxy-protocol.txt, sections 2.1 and 2.2.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from struct import Struct
from typing import Callable, Optional, Union

from offset_common.networks import NetworkSet
from offset_common.relay.addresses import SystemAddress, peer_address
from offset_common.relay.event_loop import READ, EventLoop
from offset_common.relay.sockets import NO_WAIT

HEADER_TIMEOUT = 5.0  # seconds: "at least 3 seconds to cover a TCP retransmit" (2)
MAX_WAITING = 1024  # connections whose header has not arrived
WAITING_SHARE = 8  # and at most --connections divided by this

_V1_START = b"PROXY "
_V2_START = b"\r\n\r\n\0\r\nQUIT\n"
_V1_LONGEST = 107  # bytes: "the worst case" with CRLF (2.1)
_V1_LINE = re.compile(rb"PROXY (TCP4|TCP6) ([0-9A-Fa-f:.]+) ([0-9A-Fa-f:.]+) ([0-9]{1,5}) ([0-9]{1,5})\r\n")
_V1_UNKNOWN = re.compile(rb"PROXY UNKNOWN(?: [^\r\n]*)?\r\n")
_V2_FIXED = Struct("!12sBBH")  # signature, version and command, family and protocol, bytes that follow
_V2_MAX_REST = 4096  # bytes of addresses and TLVs; client certificates do not belong here
_V2_LOCAL, _V2_PROXY = 0x20, 0x21
_V2_UNSPECIFIED = 0x00
_V2_ADDRESS_SIZES = {0x11: 4, 0x21: 16}  # TCP over IPv4, TCP over IPv6
_LONGEST = _V2_FIXED.size + _V2_MAX_REST
_MAX_PORT = 65535


class HeaderError(Exception):
    """A trusted address sent no valid header; the text says why."""


def header_size(data: bytes) -> Optional[int]:
    """Return the size of the header that `data` begins with, in bytes; None if more of it must arrive.

    Raises:
        HeaderError: this is not a header.
    """
    if _V2_START.startswith(data[: len(_V2_START)]):
        if len(data) < _V2_FIXED.size:
            return None
        _, command, _, rest = _V2_FIXED.unpack_from(data)
        if command not in (_V2_LOCAL, _V2_PROXY):
            raise HeaderError(f"the PROXY header has the unknown version and command 0x{command:02x}")
        if rest > _V2_MAX_REST:
            raise HeaderError(f"the PROXY header has {rest} bytes; at most {_V2_MAX_REST} are read")
        size = _V2_FIXED.size + rest
        return size if size <= len(data) else None
    if not _V1_START.startswith(data[: len(_V1_START)]):
        raise HeaderError("it does not begin with a PROXY header")
    line, end, _ = data[:_V1_LONGEST].partition(b"\n")
    if end and not line.endswith(b"\r"):
        raise HeaderError("the PROXY line does not end in CR LF")
    if not end and len(data) >= _V1_LONGEST:
        raise HeaderError(f"the PROXY line does not end within {_V1_LONGEST} bytes")
    return len(line) + 1 if end else None


def source_in(header: bytes) -> Optional[SystemAddress]:
    """Return the address in a complete header; None if the balancer connects for itself.

    Raises:
        HeaderError: the header is malformed.
    """
    return _v2_source(header) if header.startswith(_V2_START) else _v1_source(header)


def _v1_source(header: bytes) -> Optional[SystemAddress]:
    if _V1_UNKNOWN.fullmatch(header):
        return None
    found = _V1_LINE.fullmatch(header)
    if found is None:
        raise HeaderError("the PROXY line is malformed")
    family, source, destination, *ports = (part.decode("ascii") for part in found.groups())
    try:
        kind = ipaddress.IPv4Address if family == "TCP4" else ipaddress.IPv6Address
        host = kind(source)
        kind(destination)
    except ValueError:
        raise HeaderError("the PROXY line has an invalid address") from None
    if any(int(port) > _MAX_PORT for port in ports):
        raise HeaderError("the PROXY line has an invalid port")
    return _plain(host), int(ports[0])


def _v2_source(header: bytes) -> Optional[SystemAddress]:
    _, command, family, rest = _V2_FIXED.unpack_from(header)
    if command == _V2_LOCAL or family == _V2_UNSPECIFIED:
        return None
    size = _V2_ADDRESS_SIZES.get(family)
    if size is None:
        raise HeaderError(f"the PROXY header has the family and protocol 0x{family:02x}, not TCP over IP")
    if rest < 2 * size + 4:
        raise HeaderError(f"the PROXY header has {rest} bytes, too few for its addresses")
    # The TLVs behind the two addresses and ports are ignored (2.2).
    at = _V2_FIXED.size
    host = ipaddress.ip_address(header[at : at + size])
    port = int.from_bytes(header[at + 2 * size : at + 2 * size + 2], "big")
    return _plain(host), port


def _plain(host: Union[ipaddress.IPv4Address, ipaddress.IPv6Address]) -> str:
    """Return an address as text, an IPv4-mapped IPv6 address as IPv4."""
    mapped = host.ipv4_mapped if isinstance(host, ipaddress.IPv6Address) else None
    return str(mapped or host)


class _WaitingSocket:
    """An accepted socket whose header is not complete."""

    def __init__(self, headers: ProxyHeaders, sock: socket.socket, balancer: SystemAddress) -> None:
        self.sock = sock
        self.balancer = balancer
        self._headers = headers
        self._start = b""  # of the header, as far as it has been read

    def on_ready(self, events: int) -> None:
        """Read as much of the header as has arrived."""
        try:
            ahead = self.sock.recv(_LONGEST - len(self._start), NO_WAIT | socket.MSG_PEEK)
            if not ahead:
                raise HeaderError("it closed before its PROXY header was complete")
            data = self._start + ahead
            size = header_size(data)
            # As long as the header is not complete, everything belongs to it.
            self.sock.recv((size or len(data)) - len(self._start), NO_WAIT)
            if size is None:
                self._start = data
            else:
                self._headers.completed(self, source_in(data[:size]) or self.balancer)
        except BlockingIOError:
            pass
        except HeaderError as error:
            self._headers.refuse(self, str(error))
        except OSError as error:
            self._headers.refuse(self, error.strerror or str(error))

    def on_deadline(self) -> None:
        """Refuse a header that is late."""
        self._headers.refuse(self, f"no complete PROXY header within {HEADER_TIMEOUT:g} s")


class ProxyHeaders:
    """The connections of trusted balancers, from acceptance to the end of their header.

    Args:
        loop: the event loop.
        trusted: the balancers' addresses.
        connections: the maximum number of connections of the relay.
        accepted: called with each socket and its peer's address, from the header if there is one.
        refused: called with a balancer's address and the reason for closing its connection.
    """

    def __init__(
        self,
        loop: EventLoop,
        trusted: NetworkSet,
        connections: int,
        accepted: Callable[[socket.socket, SystemAddress], None],
        refused: Callable[[SystemAddress, str], None],
    ) -> None:
        self._loop = loop
        self._trusted = trusted
        self._max_waiting = max(1, min(MAX_WAITING, connections // WAITING_SHARE))
        self._accepted = accepted
        self._refused = refused
        self._waiting: dict[_WaitingSocket, None] = {}  # oldest first

    def accept(self, sock: socket.socket, system_address: SystemAddress) -> None:
        """Take an accepted connection; if it comes from a balancer, read its header first."""
        if peer_address(system_address).host not in self._trusted:
            self._accepted(sock, system_address)
            return
        if len(self._waiting) >= self._max_waiting:
            self.refuse(next(iter(self._waiting)), "too many connections wait for their PROXY header")
        waiting = _WaitingSocket(self, sock, system_address)
        self._waiting[waiting] = None
        self._loop.register(sock, READ, waiting)
        self._loop.deadlines.schedule(waiting, self._loop.now + HEADER_TIMEOUT)

    def completed(self, waiting: _WaitingSocket, source: SystemAddress) -> None:
        """Pass on a connection whose header is complete."""
        self._remove(waiting)
        self._accepted(waiting.sock, source)

    def refuse(self, waiting: _WaitingSocket, reason: str) -> None:
        """Close a connection that has no valid header."""
        self._remove(waiting)
        waiting.sock.close()
        self._refused(waiting.balancer, reason)

    def close(self) -> None:
        """Close all connections that wait."""
        for waiting in list(self._waiting):
            self._remove(waiting)
            waiting.sock.close()

    def _remove(self, waiting: _WaitingSocket) -> None:
        del self._waiting[waiting]
        self._loop.unregister(waiting.sock)
        self._loop.deadlines.cancel(waiting)
