"""FrameReader: the same payloads and the same error however the stream is cut, and not a byte is lost."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Optional

from offset_common.errors import FrameError
from offset_common.wire.frames import FrameReader, encode_frame
from tests.fuzz import vectors

MAX_SIZE = 4096
LIMITS = (4, 2048, 2**20)  # bytes; the first byte of an input chooses
_HEAD_SIZE = 2  # limit, size of the pieces


def seeds() -> Iterator[bytes]:
    """Recorded conversations, an old peer, lengths at and over the limits."""
    for payloads in vectors.handshakes():
        yield b"\x01\x0d" + b"".join(map(encode_frame, payloads))
    yield b"\x00\x00" + bytes((0, 0, 0, 4, 0, 0, 0, 0))
    for limit in LIMITS:
        for length in (limit, limit + 1, 2**31, 2**63, 2**64 - 1):
            yield b"\x02\x01" + encode_frame(b"") + length.to_bytes(8, "big") + b"payload"


def run(data: bytes) -> None:
    """Read the stream whole and in pieces."""
    head, stream = data[:_HEAD_SIZE].ljust(_HEAD_SIZE, b"\0"), data[_HEAD_SIZE:]
    limit, step = LIMITS[head[0] % len(LIMITS)], head[1] + 1
    payloads, error, rest = _read((stream,), limit)
    pieces = (stream[start : start + step] for start in range(0, len(stream), step))
    assert _read(pieces, limit)[:2] == (payloads, error)
    assert all(len(payload) <= limit for payload in payloads)
    assert b"".join(map(encode_frame, payloads)) + rest == stream


def _read(pieces: Iterable[bytes], limit: int) -> tuple[list[bytes], Optional[str], bytes]:
    reader = FrameReader(limit)
    payloads = []
    error = None
    for piece in pieces:
        reader.receive_data(piece)
        try:
            while (payload := reader.next_frame()) is not None:
                payloads.append(payload)
        except FrameError as fault:
            error = repr(fault)
            break
    return payloads, error, reader.take_all()
