"""PROXY headers: handmade bytes, in any pieces, from balancers that are trusted and others that are not."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.networks import NetworkSet, parse_network
from offset_common.relay.addresses import SystemAddress
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.proxy_protocol import (
    HEADER_TIMEOUT,
    HeaderError,
    ProxyHeaders,
    header_size,
    source_in,
)
from tests.support.process import PATIENCE
from tests.support.relay_log import Reason
from tests.support.relay_process import LOCALHOST, StartRelay

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
BALANCER = ("10.0.0.1", 4000)
STRANGER = ("198.51.100.1", 4000)
NEXT = b"\0\0\0\x04 what the client sends"


def version_2(command: int, family: int, rest: bytes) -> bytes:
    """Return a header of version 2, laid out as the specification has it."""
    return SIGNATURE + bytes([command, family]) + struct.pack(">H", len(rest)) + rest


IPV4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("10.0.0.9") + struct.pack(">HH", 5000, 443)
IPV6 = (
    socket.inet_pton(socket.AF_INET6, "2001:db8::7")
    + socket.inet_pton(socket.AF_INET6, "::1")
    + struct.pack(">HH", 5000, 443)
)
MAPPED = socket.inet_pton(socket.AF_INET6, "::ffff:192.0.2.7") + IPV6[16:]
CHECKSUM = b"\x03\x00\x04\xde\xad\xbe\xef"

VALID = {
    b"PROXY TCP4 192.0.2.7 10.0.0.9 5000 443\r\n": ("192.0.2.7", 5000),
    b"PROXY TCP6 2001:db8::7 ::1 5000 443\r\n": ("2001:db8::7", 5000),
    b"PROXY TCP6 ::ffff:192.0.2.7 ::1 5000 443\r\n": ("192.0.2.7", 5000),
    b"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n": None,
    version_2(0x21, 0x11, IPV4): ("192.0.2.7", 5000),
    version_2(0x21, 0x21, IPV6): ("2001:db8::7", 5000),
    version_2(0x21, 0x21, MAPPED): ("192.0.2.7", 5000),
    version_2(0x21, 0x11, IPV4 + CHECKSUM): ("192.0.2.7", 5000),
    version_2(0x20, 0x00, b""): None,
    version_2(0x20, 0x11, IPV4): None,
    version_2(0x21, 0x00, b""): None,
}
"""Valid headers, with the address that each is about."""

INVALID = [
    b"\0\0\0\x04\0\0\0\x01",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.9 5000\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.9 5000 70000\r\n",
    b"PROXY TCP4 2001:db8::7 ::1 5000 443\r\n",
    b"PROXY TCP4  192.0.2.7 10.0.0.9 5000 443\r\n",
    b"PROXY UDP4 192.0.2.7 10.0.0.9 5000 443\r\n",
    b"PROXY TCP4 192.0.2.7 10.0.0.9 5000 443\n" + NEXT,
    b"PROXY TCP4 " + b"1" * 200,
    b"PROXY UNKNOWN " + b"x" * 200 + b"\r\n",
    version_2(0x11, 0x11, IPV4),
    version_2(0x22, 0x11, IPV4),
    version_2(0x21, 0x12, IPV4),
    version_2(0x21, 0x11, IPV4[:-1]),
    version_2(0x21, 0x21, IPV4),
    version_2(0x21, 0x11, IPV4 + bytes(60000)),
]


class Relay:
    """A relay's side of the header: what it accepts and refuses."""

    def __init__(self, connections: int = 100) -> None:
        self.now = 1000.0
        self.loop = EventLoop(lambda: self.now)
        self.accepted: list[tuple[socket.socket, SystemAddress]] = []
        self.refused: list[tuple[SystemAddress, str]] = []
        self.headers = ProxyHeaders(
            self.loop,
            NetworkSet([parse_network("10.0.0.0/8")]),
            connections,
            lambda sock, address: self.accepted.append((sock, address)),
            lambda address, reason: self.refused.append((address, reason)),
        )
        self.loop.add_periodic(lambda: None, lambda: self.now)

    def connect(self, address: SystemAddress = BALANCER) -> socket.socket:
        """Make the relay accept a connection; return the other end."""
        ours, theirs = socket.socketpair()
        self.headers.accept(ours, address)
        return theirs

    def run(self) -> None:
        """Run a round."""
        self.loop.run_once()

    def close(self) -> None:
        self.headers.close()
        assert len(self.loop.deadlines) == 0
        for sock, _ in self.accepted:
            sock.close()
        self.loop.close()


@pytest.fixture
def relay() -> Iterator[Relay]:
    made = Relay()
    yield made
    made.close()


@pytest.mark.parametrize(("header", "source"), VALID.items())
def test_the_address_in_a_header_is_used(header, source, relay):
    with relay.connect() as sock:
        sock.sendall(header + NEXT)
        relay.run()
        (taken,) = relay.accepted
        assert taken[1] == (source or BALANCER)
        assert taken[0].recv(1000) == NEXT, "bytes behind the header stay in the socket"


@pytest.mark.parametrize("header", VALID)
def test_a_header_may_arrive_byte_by_byte(header, relay):
    with relay.connect() as sock:
        for at in range(len(header)):
            assert relay.accepted == []
            sock.sendall(header[at : at + 1])
            relay.run()
        assert len(relay.accepted) == 1


@pytest.mark.parametrize("header", INVALID)
def test_an_invalid_header_is_refused(header, relay):
    with relay.connect() as sock:
        sock.sendall(header)
        relay.run()
        (refused,) = relay.refused
        assert refused[0] == BALANCER
        assert refused[1]
        assert relay.accepted == []


def test_a_partial_header_costs_no_turns(relay):
    with relay.connect() as sock:
        sock.sendall(b"PROXY TCP4 192.0.2.7 ")
        relay.run()
        assert relay.loop._selector.select(0) == []


def test_a_late_header_is_refused(relay):
    with relay.connect() as sock:
        sock.sendall(b"PROXY TCP4 ")
        relay.run()
        relay.now += HEADER_TIMEOUT - 1
        relay.run()
        assert relay.refused == []
        relay.now += 2
        relay.run()
        assert relay.refused == [(BALANCER, "no complete PROXY header within 5 s")]


def test_a_peer_that_closes_early_is_refused(relay):
    relay.connect().close()
    relay.run()
    assert relay.refused == [(BALANCER, "it closed before its PROXY header was complete")]


def test_others_need_no_header(relay):
    with relay.connect(STRANGER):
        assert relay.accepted[0][1] == STRANGER


def test_a_mapped_ipv4_balancer_is_trusted(relay):
    with relay.connect(("::ffff:10.0.0.1", 4000, 0, 0)):
        assert len(relay.loop.deadlines) == 1


def test_at_the_limit_the_oldest_connection_is_closed():
    relay = Relay(connections=16)
    socks = [relay.connect(("10.0.0.1", port)) for port in (1, 2, 3)]
    relay.run()
    assert relay.refused == [(("10.0.0.1", 1), "too many connections wait for their PROXY header")]
    for sock in socks:
        sock.close()
    relay.close()


@given(st.binary(max_size=300), st.sampled_from([b"", SIGNATURE, b"PROXY ", b"PROXY TCP4 "]))
def test_any_bytes_are_refused_or_understood(data, start):
    data = start + data
    try:
        size = header_size(data)
        if size is None:
            assert len(data) < (16 + 4096 if SIGNATURE.startswith(data[:12]) else 107)
            return
        assert all(header_size(data[:end]) is None for end in range(size))
        source = source_in(data[:size])
        assert source is None or 0 <= source[1] <= 65535
    except HeaderError as error:
        assert str(error)


def test_limits_count_the_address_in_the_header(start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8", "--per-address", "2")
    with contextlib.ExitStack() as opened:

        def connect(client: str) -> socket.socket:
            address = (LOCALHOST, relay.port)
            sock = opened.enter_context(socket.create_connection(address, timeout=PATIENCE))
            sock.sendall(f"PROXY TCP4 {client} 127.0.0.1 5000 443\r\n".encode())
            return sock

        for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.2"):
            assert connect(client).recv(8) == bytes(7) + b"\4"  # the start of the relay's version
        connect("192.0.2.1")
        assert relay.wait_for_end(reason=Reason.EVICTED).address == "192.0.2.1:5000"
