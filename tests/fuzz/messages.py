"""Every message decoder: a value or DecodeError; a value encodes, and decodes again to the same."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from offset_common.errors import DecodeError
from tests.fuzz import vectors
from tests.wire.strategies import KINDS

MAX_SIZE = 4096


def seeds() -> Iterator[bytes]:
    """Yield recorded messages of all layers."""
    for payloads in vectors.handshakes():
        yield from payloads[1:]
    yield from vectors.plaintexts()
    yield from vectors.user_data()
    yield from vectors.role_messages()


def run(data: bytes) -> None:
    """Pass the bytes to each decoder."""
    for kind in KINDS:
        check(kind, data)


def check(kind: Any, data: bytes) -> None:
    """Pass the bytes to one decoder."""
    try:
        value = kind.decode(data)
    except DecodeError:
        return
    encoded = value.encode()
    again = kind.decode(encoded)
    assert again == value, f"a {kind.__name__} changes when it is encoded and decoded"
    assert again.encode() == encoded
    assert kind.decode(memoryview(data)) == value
