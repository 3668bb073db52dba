"""A peer that breaks the protocol gets a typed error, and its connection can't be used afterwards."""

from __future__ import annotations

import pytest

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.channel.events import Event
from offset_common.constants import MAX_FRAME_SIZE
from offset_common.errors import DecryptionError, LocalProtocolError, PeerError, VersionError
from offset_common.wire.frames import FrameTooLargeError, OldPeerError
from tests.channel.peers import converse, established, node, receive, relay
from tests.channel.recorded import in_frame


def refused(connection: Connection, data: bytes) -> tuple[list[Event], PeerError]:
    """Pass bytes to a connection that must reject them; return the events before the error, and the error."""
    events: list[Event] = []
    connection.receive_data(data)
    with pytest.raises(PeerError) as caught:
        while True:
            event = connection.next_event(0.0)
            assert event is not None, "it was not rejected"
            events.append(event)
    return events, caught.value


# Invalid frames are rejected by their length, before they are buffered.


@pytest.mark.parametrize("size", [0, 1, 3])
def test_version_of_another_length_is_refused(size):
    _, error = refused(relay(), in_frame(bytes(size)))
    assert isinstance(error, VersionError)


@pytest.mark.parametrize("length", [5, 2048, MAX_FRAME_SIZE])
def test_first_frame_over_four_bytes_is_not_offset(length):
    _, error = refused(relay(), length.to_bytes(8, "big"))
    assert isinstance(error, VersionError)
    assert str(error) == f"not an Offset peer: its first frame has {length} bytes"


@pytest.mark.parametrize("number", [1, 2**24, 2**32 - 1])
def test_another_version_is_refused(number):
    _, error = refused(relay(), in_frame(number.to_bytes(4, "big")))
    assert isinstance(error, VersionError)
    assert str(number) in str(error)


def test_peer_with_four_byte_lengths_is_recognized():
    _, error = refused(relay(), bytes.fromhex("00000004 00000000"))
    assert isinstance(error, OldPeerError)
    assert str(error) == "peer older than 0.1.3"


def after_version() -> tuple[Connection, int]:
    server = relay()
    receive(server, VERSION_FRAME)
    return server, 2048


def after_first() -> tuple[Connection, int]:
    server = relay()
    receive(server, node().data_to_send())
    return server, 2048


def after_handshake() -> tuple[Connection, int]:
    return established()[1], MAX_FRAME_SIZE


@pytest.mark.parametrize("state", [after_version, after_first, after_handshake])
def test_frame_over_the_limit_is_refused_by_its_length(state):
    connection, limit = state()
    assert receive(connection, limit.to_bytes(8, "big")) == [], "a frame of the limit is accepted"
    connection, limit = state()
    _, error = refused(connection, (limit + 1).to_bytes(8, "big"))
    assert isinstance(error, FrameTooLargeError)
    assert (error.length, error.limit) == (limit + 1, limit)


# Faults.


def fail_by_version_frame(connection: Connection) -> None:
    with pytest.raises(VersionError):
        connection.receive_frame(b"\x01\x00\x00\x00", 0.0)


def fail_by_decryption(connection: Connection) -> None:
    converse(connection, node())
    with pytest.raises(DecryptionError):
        connection.receive_frame(bytes(28), 0.0)


def fail_by_silence(connection: Connection) -> None:
    converse(connection, node())
    with pytest.raises(PeerError):
        connection.handle_time(32.0)


@pytest.mark.parametrize(
    "fail",
    [
        fail_by_version_frame,
        fail_by_decryption,
        fail_by_silence,
    ],
)
def test_failed_connection_cannot_be_used(fail):
    connection = relay()
    fail(connection)
    connection.data_to_send()
    assert not connection.established
    with pytest.raises(LocalProtocolError):
        connection.next_event(0.0)
    with pytest.raises(LocalProtocolError):
        connection.receive_frame(VERSION_FRAME[-4:], 0.0)
    with pytest.raises(LocalProtocolError):
        connection.send(b"message", 0.0)
    assert connection.data_to_send() == b""
