"""`classify` never accepts what the decoder rejects, and trimmed padding leaves the same message."""

from __future__ import annotations

from collections.abc import Iterator

from tests.channel.layouts import ENCODERS, as_unknown
from tests.channel.test_classify import check
from tests.fuzz import vectors

MAX_SIZE = 8192
BEHIND = (b"", b"\xff" * 3000, bytes(3000), b"\x01" * 3000)  # the bytes after it in the scratch buffer


def seeds() -> Iterator[bytes]:
    """Yield recorded messages, and small and large messages in each known layout."""
    yield from vectors.plaintexts()
    for payload in (b"", b"payload", bytes(70), b"\xff" * 2100, bytes(range(256)) * 12):
        for padding in (b"", b"padding", b"\xff" * 255, bytes(900)):
            for encode in (*ENCODERS, as_unknown):
                yield encode(payload, padding)


def run(data: bytes) -> None:
    """Classify the message with different bytes after it."""
    assert len({check(data, behind) for behind in BEHIND}) == 1
