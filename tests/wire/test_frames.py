"""Frames: their form and their buffer; tests/channel cuts streams anywhere, and exceeds the limits."""

from __future__ import annotations

import pytest

from offset_common.wire.frames import FrameReader, encode_frame

LIMIT = 1000


def read_all(reader: FrameReader) -> list[bytes]:
    """Return all complete payloads of the reader."""
    payloads: list[bytes] = []
    while True:
        payload = reader.next_frame()
        if payload is None:
            return payloads
        payloads.append(payload)


@pytest.mark.parametrize(
    ("payload", "frame"),
    [
        (b"", "00000000 00000000"),
        (bytes(4), "00000000 00000004 00000000"),
        (b"\x01\x02\x03", "00000000 00000003 010203"),
    ],
)
def test_frame_is_big_endian_length_and_payload(payload, frame):
    assert encode_frame(payload) == bytes.fromhex(frame)
    reader = FrameReader(LIMIT)
    reader.receive_data(bytes.fromhex(frame))
    assert read_all(reader) == [payload]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_every_kind_of_buffer_is_accepted(kind):
    assert encode_frame(kind(b"payload")) == encode_frame(b"payload")
    reader = FrameReader(LIMIT)
    reader.receive_data(kind(encode_frame(b"payload")))
    assert reader.next_frame() == b"payload"


def test_returned_payload_does_not_change():
    reader = FrameReader(LIMIT)
    reader.receive_data(encode_frame(b"one") + encode_frame(b"two"))
    first = reader.next_frame()
    reader.receive_data(encode_frame(b"three"))
    assert [first, *read_all(reader)] == [b"one", b"two", b"three"]


def test_large_stream_is_freed_as_it_is_read():
    payloads = [bytes([i % 256]) * 900 for i in range(300)]
    reader = FrameReader(LIMIT)
    reader.receive_data(b"".join(map(encode_frame, payloads)))
    seen = []
    for left in range(len(payloads), 0, -1):
        assert len(reader) == left * 908
        assert len(reader._buffer) <= len(reader) + 65536 + 908
        seen.append(reader.next_frame())
    assert seen == payloads
    assert len(reader) == 0
