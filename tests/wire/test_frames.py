"""Frames: a stream split anywhere has the same payloads, and a length over the limit is an error."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.errors import FrameError
from offset_common.wire.frames import (
    FrameReader,
    FrameTooLargeError,
    OldPeerError,
    encode_frame,
)

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


@given(st.lists(st.binary(max_size=60), max_size=8), st.binary(max_size=7), st.data())
def test_stream_split_anywhere_has_the_same_payloads(payloads, rest, data):
    stream = b"".join(map(encode_frame, payloads)) + rest
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader(LIMIT)
    seen = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)]):
        reader.receive_data(stream[begin:end])
        seen += read_all(reader)
    assert seen == payloads
    assert len(reader) == len(rest)
    assert reader.take_all() == rest
    assert len(reader) == 0


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


@pytest.mark.parametrize("length", [LIMIT + 1, 2**32, 2**63, 2**64 - 1])
def test_length_over_the_limit_is_refused_without_its_payload(length):
    reader = FrameReader(LIMIT)
    reader.receive_data(encode_frame(b"before") + length.to_bytes(8, "big"))
    assert reader.next_frame() == b"before"
    with pytest.raises(FrameTooLargeError) as caught:
        reader.next_frame()
    assert (caught.value.length, caught.value.limit) == (length, LIMIT)
    assert isinstance(caught.value, FrameError)
    assert str(length) in str(caught.value) and str(LIMIT) in str(caught.value)


def test_limit_may_change_between_frames():
    reader = FrameReader(4)
    reader.receive_data(encode_frame(bytes(4)) + encode_frame(bytes(5)))
    assert reader.next_frame() == bytes(4)
    reader.set_limit(5)
    assert reader.next_frame() == bytes(5)


def test_four_byte_lengths_of_old_peers_are_recognized():
    reader = FrameReader(4)
    reader.receive_data(bytes.fromhex("00000004 00000000"))
    with pytest.raises(OldPeerError, match=r"older than 0\.1\.3"):
        reader.next_frame()
