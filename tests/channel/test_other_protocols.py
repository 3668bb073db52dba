"""Peers that speak another protocol are named by their first bytes, which are those of real programs."""

from __future__ import annotations

import pytest

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.channel.other_protocols import name_protocol
from offset_common.errors import PeerError, VersionError
from offset_common.identity import Identity

RECORDED = {
    "HTTP request": [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /login HTTP/1.0\r\n",
        b"OPTIONS * HTTP/1.1\r\n",
        b"PROPFIND / HTTP/1.1\r\n",
        b"CONNECT example.com:443 HTTP/1.1\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
    "HTTP response": [b"HTTP/1.1 400 Bad Request\r\n"],
    "TLS": [
        bytes.fromhex("16030100f8010000f40303"),  # a ClientHello
        bytes.fromhex("1603030200010001fc0303"),
        bytes.fromhex("15030300020246"),  # an alert
    ],
    "SSH": [b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", b"SSH-1.99-x\r\n"],
    "PROXY protocol header": [
        b"PROXY TCP4 192.0.2.1 198.51.100.1 51234 4567\r\n",
        b"PROXY UNKNOWN\r\n",
        bytes.fromhex("0d0a0d0a000d0a515549540a21110054"),
    ],
    "SOCKS": [
        bytes.fromhex("050100"),
        bytes.fromhex("05020002"),
        bytes.fromhex("05010005010001c000020111d7"),  # its request right after the greeting
        bytes.fromhex("040111d7c000020100"),
    ],
    "Remote Desktop (RDP)": [bytes.fromhex("0300002f2ae00000000000436f6f6b69653a20")],
    "Windows file sharing (SMB)": [
        bytes.fromhex("00000085ff534d4272000000"),
        bytes.fromhex("000000b2fe534d4240000000"),
    ],
    "PostgreSQL": [bytes.fromhex("0000000804d2162f"), bytes.fromhex("000000540003000075736572")],
    "MQTT": [bytes.fromhex("101000044d5154540402003c0004"), bytes.fromhex("102500064d514973647003")],
    "Redis": [b"*1\r\n$4\r\nPING\r\n"],
    "Telnet": [bytes.fromhex("fffd18fffd20fffd23fffd27")],
    "BitTorrent": [b"\x13BitTorrent protocol"],
    "plain text": [
        b"220 mail.example.com ESMTP\r\n",
        b"\r\n",
        b"hello\n",
        b"EHLO example.com\r\n",
        b"hello\rworld\r",
    ],
}


def refuse(data: bytes) -> str:
    """Pass the first bytes of a stranger to a relay's connection; return why it refuses them."""
    connection = Connection(Identity.generate(), 0.0)
    connection.receive_data(data)
    with pytest.raises(VersionError) as caught:
        connection.next_event(0.0)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "data"),
    [(name, data) for name, recordings in RECORDED.items() for data in recordings],
    ids=lambda value: value[:12].hex() if isinstance(value, bytes) else value,
)
def test_protocol_is_recognized(name: str, data: bytes) -> None:
    assert refuse(data) == f"not an Offset peer: {name}"


def test_name_does_not_depend_on_how_many_bytes_come_first() -> None:
    strangers = [data for recordings in RECORDED.values() for data in recordings]
    strangers += [b"hello\n\xce\xce\xce", b"\n\xce\xce\xce\xce\xce\xce\xce", b"*1\r\nPING"]
    strangers += [b"\x15\x03\x05\x00\x02\x01\x01\x01", b"\x05\x01\x02\xce\xce\xce\xce\xce"]
    for data in strangers:
        for size in range(1, 8):
            connection = Connection(Identity.generate(), 0.0)
            connection.receive_data(data[:size])
            may_be_typed = b"\r\n\r\n".startswith(data[:size])  # or it begins a PROXY header
            if not connection.needs_data() and not may_be_typed:
                assert refuse(data[:size]) == refuse(data)


def test_unknown_protocol_is_shown_in_hex() -> None:
    first = bytes.fromhex("a1b2c3d4e5f60718")
    assert refuse(first + b"more") == "not an Offset peer: unknown protocol, first bytes a1b2c3d4e5f60718"


@pytest.mark.parametrize("size", range(8))
def test_part_of_a_version_frame_is_awaited(size: int) -> None:
    connection = Connection(Identity.generate(), 0.0)
    connection.receive_data(VERSION_FRAME[:size])
    assert connection.next_event(0.0) is None
    connection.receive_data(VERSION_FRAME[size:])
    assert connection.next_event(0.0) is None
    assert connection.received_size == 0


def test_every_start_of_another_protocol_gets_a_name() -> None:
    for number in range(256 * 256):
        assert name_protocol(number.to_bytes(2, "big") + b"\x01" * 6)


@pytest.mark.parametrize("data", [b"G", b"GET", b"\x05", b"\x05\x02\x00", b"\x16\x03\x01"])
def test_short_beginning_is_not_judged_yet(data: bytes) -> None:
    connection = Connection(Identity.generate(), 0.0)
    connection.receive_data(data)
    assert connection.next_event(0.0) is None
    connection.receive_data(b"\xee" * 8)
    with pytest.raises(PeerError):
        connection.next_event(0.0)
