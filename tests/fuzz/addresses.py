"""Addresses and keys as text: a value or UsageError; a value's text gives the value again."""

from __future__ import annotations

import json
from collections.abc import Iterator

from offset_common.address import parse_address, parse_listen_address, parse_ticket_address
from offset_common.errors import UsageError
from offset_common.identity import decode_key, encode_key
from tests.fuzz import vectors

MAX_SIZE = 320

SEEDS = (
    "relay.example.com:1337", "127.0.0.1:8900", "[2001:db8::1]:1337", "[fe80::1%eth0]:0", "[::]:1",
    "0.0.0.0:0", "bücher.example:80", "1.2.3:4", "a.:1", "xn--bcher-kva.example:1",
    "http://a:1", ":1", "[::1]", "a:00", "2001:db8::1:1337", "stra\u00dfe.example:1", "a_b:1", "5001",
)  # fmt: skip


def seeds() -> Iterator[bytes]:
    """Addresses of each form, and the strings of recorded files."""
    yield from (address.encode() for address in SEEDS)
    for content in vectors.files():
        yield from (value.encode() for value in json.loads(content).values() if isinstance(value, str))


def run(data: bytes) -> None:
    """Read the bytes, as a command line would hold them, in each way."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in (parse_address, parse_ticket_address, parse_listen_address):
        try:
            address = parse(text)
        except UsageError:
            continue
        assert parse(str(address)) == address
        same_host = text.rpartition(":")[0] == str(address).rpartition(":")[0].strip("[]")
        assert str(address) == text or (parse is parse_ticket_address and same_host)
    try:
        key = decode_key(text, 32)
    except UsageError:
        return
    assert len(key) == 32
    assert encode_key(key) == text
