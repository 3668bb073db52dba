"""One connection: however its bytes are cut, the same events come out; whatever comes, an event or a PeerError."""

from __future__ import annotations

from typing import Callable, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.channel.cipher import CipherState
from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.channel.events import Event, HandshakeCompleted, MessageReceived
from offset_common.constants import MAX_FRAME_SIZE
from offset_common.errors import DecodeError, LocalProtocolError, PeerError, SealError, VersionError
from offset_common.wire.frames import FrameTooLargeError, OldPeerError
from offset_common.wire.messages import ChannelMessage, ExchangeDh, ExchangeRandNonce, KaMessage, Rekey
from tests.channel.peers import NODE, RELAY, Randomness, converse, established, node, receive, relay
from tests.channel.recorded import cut_frames, in_frame

MESSAGES = [b"", b"one", bytes(1000), bytes(range(256)) * 8, b"two"]


def whole_conversation() -> tuple[bytes, list[Event]]:
    """All that a node says to a relay, with a rekey and a keepalive in it, and the events that it is."""
    dialling, dialled = node(), relay()
    stream, events = bytearray(), []
    steps: list[Callable[[], None]] = [lambda: None] * 3
    steps += [lambda message=message: dialling.send(message, 0.0) for message in MESSAGES]  # type: ignore[misc]
    steps += [lambda: dialling.secure_channel.start_rekey(0.0), lambda: dialling.handle_time(16.0)]
    steps += [lambda message=message: dialling.send(message, 16.0) for message in MESSAGES]  # type: ignore[misc]
    for step in steps:
        step()
        said = dialling.data_to_send()
        stream += said
        events += receive(dialled, said)
        receive(dialling, dialled.data_to_send())
    assert events == [
        HandshakeCompleted(NODE.public_key),
        *(MessageReceived(message) for message in MESSAGES * 2),
    ]
    return bytes(stream), events


STREAM, EVENTS = whole_conversation()
CUTS = st.lists(st.integers(0, len(STREAM)), max_size=30).map(sorted)


def pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    """The stream, cut at these places."""
    return [stream[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(stream)])]


def refused(connection: Connection, data: bytes) -> tuple[list[Event], PeerError]:
    """Give bytes to a connection that must refuse them; return the events before that, and the error."""
    events: list[Event] = []
    connection.receive_data(data)
    with pytest.raises(PeerError) as caught:
        while True:
            event = connection.next_event(0.0)
            assert event is not None, "it was not refused"
            events.append(event)
    return events, caught.value


def frame_from(peer: Connection, message: bytes = b"message") -> bytes:
    """The frame of one message of an established peer."""
    peer.send(message, 0.0)
    return peer.data_to_send()


# The same events.


def test_a_conversation_in_one_piece_is_its_events():
    assert receive(relay(), STREAM) == EVENTS


def test_a_conversation_byte_by_byte_is_the_same_events():
    dialled = relay()
    events = [event for i in range(len(STREAM)) for event in receive(dialled, STREAM[i : i + 1])]
    assert events == EVENTS
    assert dialled.received_size == 0


@settings(max_examples=60, deadline=None)
@given(CUTS)
def test_a_conversation_cut_anywhere_is_the_same_events(cuts):
    dialled = relay()
    assert [event for piece in pieces(STREAM, cuts) for event in receive(dialled, piece)] == EVENTS


@settings(max_examples=60, deadline=None)
@given(CUTS, st.binary(max_size=7))
def test_bytes_behind_a_conversation_wait_and_can_be_taken(cuts, trailing):
    dialled = relay()
    events = [event for piece in pieces(STREAM + trailing, cuts) for event in receive(dialled, piece)]
    assert events == EVENTS
    assert dialled.received_size == len(trailing)
    assert dialled.take_received() == trailing
    assert dialled.received_size == 0


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_two_peers_over_a_choppy_line_hear_each_other_word_for_word(data):
    sides = node(), relay()
    line = bytearray(), bytearray()  # towards each side
    said: tuple[list[bytes], list[bytes]] = [], []
    heard: tuple[list[Event], list[Event]] = [], []

    def transmit(me: int, most: Optional[int]) -> None:
        line[1 - me].extend(sides[me].data_to_send())
        heard[me].extend(receive(sides[me], bytes(line[me][:most])))
        del line[me][:most]
        line[1 - me].extend(sides[me].data_to_send())

    for _ in range(40):
        me = data.draw(st.integers(0, 1))
        if sides[me].established and data.draw(st.booleans()):
            message = data.draw(st.binary(max_size=40))
            said[me].append(message)
            sides[me].send(message, 0.0)
        transmit(me, data.draw(st.integers(1, 150)))
    for _ in range(4):
        transmit(0, None)
        transmit(1, None)
    assert heard[0] == [HandshakeCompleted(RELAY.public_key), *map(MessageReceived, said[1])]
    assert heard[1] == [HandshakeCompleted(NODE.public_key), *map(MessageReceived, said[0])]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_bytes_may_come_in_any_kind_of_buffer(kind):
    dialled = relay()
    dialled.receive_data(kind(STREAM))
    assert dialled.next_event(0.0) == EVENTS[0]


def test_whole_payloads_may_be_given_without_frames():
    dialled = relay()
    events = [dialled.receive_frame(payload, 0.0) for payload in cut_frames(STREAM)]
    assert [event for event in events if event is not None] == EVENTS


def test_the_version_is_sent_first_unless_the_caller_has_sent_it():
    everything = Connection(NODE, 0.0, None, Randomness(1)).data_to_send()
    rest = Connection(NODE, 0.0, None, Randomness(1), version_sent=True).data_to_send()
    assert everything == VERSION_FRAME + rest
    assert VERSION_FRAME == bytes.fromhex("0000000000000004 00000000")


def test_data_to_send_gives_each_byte_once():
    dialling = node()
    assert dialling.data_to_send()
    assert dialling.data_to_send() == b""


# Frames that cannot be: refused at their length, before there is anything to buffer.


@pytest.mark.parametrize("size", [0, 1, 3])
def test_a_version_of_another_length_is_refused(size):
    _, error = refused(relay(), in_frame(bytes(size)))
    assert isinstance(error, VersionError)


@pytest.mark.parametrize("length", [5, 2048, 2**40, 2**64 - 1, int.from_bytes(b"GET / HT", "big")])
def test_a_first_frame_over_four_bytes_is_not_offset(length):
    _, error = refused(relay(), length.to_bytes(8, "big"))
    assert isinstance(error, VersionError)
    assert str(length) in str(error)


@pytest.mark.parametrize("number", [1, 2**24, 2**32 - 1])
def test_another_version_is_refused(number):
    _, error = refused(relay(), in_frame(number.to_bytes(4, "big")))
    assert isinstance(error, VersionError)
    assert str(number) in str(error)


def test_a_peer_with_four_byte_lengths_is_refused_by_its_name():
    _, error = refused(relay(), bytes.fromhex("00000004 00000000"))
    assert isinstance(error, OldPeerError)
    assert str(error) == "peer older than 0.1.3"


def after_version() -> tuple[Connection, int]:
    dialled = relay()
    receive(dialled, VERSION_FRAME)
    return dialled, 2048


def after_first() -> tuple[Connection, int]:
    dialled = relay()
    receive(dialled, node().data_to_send())
    return dialled, 2048


def after_handshake() -> tuple[Connection, int]:
    return established()[1], MAX_FRAME_SIZE


@pytest.mark.parametrize("state", [after_version, after_first, after_handshake])
def test_a_frame_over_its_limit_is_refused_at_its_length(state):
    connection, limit = state()
    assert receive(connection, limit.to_bytes(8, "big")) == [], "the limit itself may come"
    connection, limit = state()
    _, error = refused(connection, (limit + 1).to_bytes(8, "big"))
    assert isinstance(error, FrameTooLargeError)
    assert (error.length, error.limit) == (limit + 1, limit)


def test_a_handshake_and_a_large_message_in_one_piece_have_each_their_limit():
    dialling, dialled = node(), relay()
    first = dialling.data_to_send()
    receive(dialling, dialled.data_to_send())
    second = dialling.data_to_send()
    # The node is done only when it has the relay's answer, which depends on the node's first words alone.
    rehearsal = relay()
    receive(rehearsal, first)
    receive(dialling, rehearsal.data_to_send()[len(VERSION_FRAME) + 8 + 71 :])
    dialling.send(bytes(100_000), 0.0)
    large = dialling.data_to_send()
    assert receive(dialled, first + second + large) == [
        HandshakeCompleted(NODE.public_key),
        MessageReceived(bytes(100_000)),
    ]


# Faults.


def too_short(dialling: Connection) -> bytes:
    return in_frame(bytes(27))


def bad_tag(dialling: Connection) -> bytes:
    return frame_from(dialling)[:-1] + b"?"


def replayed(dialling: Connection) -> bytes:
    frame = frame_from(dialling)
    return frame + frame


def gap(dialling: Connection) -> bytes:
    frame_from(dialling)
    return frame_from(dialling)


def wrong_nonce(dialling: Connection) -> bytes:
    plaintext = ChannelMessage(b"", KaMessage(b"message").encode()).encode()
    return in_frame(CipherState(dialling.secure_channel.sending.key, 2**64).seal(plaintext))


@pytest.mark.parametrize("fault", [too_short, bad_tag, replayed, gap, wrong_nonce])
def test_what_is_not_the_next_sealed_message_ends_the_connection(fault):
    dialling, dialled = established()
    events, error = refused(dialled, fault(dialling))
    assert isinstance(error, SealError)
    assert events == ([MessageReceived(b"message")] if fault is replayed else [])


def test_sealed_nonsense_is_a_decode_error():
    for plaintext in (b"", b"\xff" * 30, ChannelMessage(b"", b"not a KaMessage").encode()):
        dialling, dialled = established()
        _, error = refused(dialled, in_frame(dialling.secure_channel.sending.seal(plaintext)))
        assert isinstance(error, DecodeError)


def test_events_before_a_fault_are_told_before_it():
    dialling, dialled = node(), relay()
    converse(dialling, dialled)
    stream = frame_from(dialling, b"one") + frame_from(dialling, b"two") + in_frame(bytes(40))
    events, error = refused(dialled, stream + frame_from(dialling, b"three"))
    assert events == [MessageReceived(b"one"), MessageReceived(b"two")]
    assert isinstance(error, SealError)


def fail_by_version(connection: Connection) -> None:
    refused(connection, in_frame(b"\x01\x00\x00\x00"))


def fail_by_version_frame(connection: Connection) -> None:
    with pytest.raises(VersionError):
        connection.receive_frame(b"\x01\x00\x00\x00", 0.0)


def fail_by_handshake(connection: Connection) -> None:
    refused(connection, VERSION_FRAME + in_frame(b""))


def fail_by_length(connection: Connection) -> None:
    converse(connection, node())
    refused(connection, b"\xff" * 8)


def fail_by_seal(connection: Connection) -> None:
    converse(connection, node())
    with pytest.raises(SealError):
        connection.receive_frame(bytes(28), 0.0)


def fail_by_silence(connection: Connection) -> None:
    converse(connection, node())
    with pytest.raises(PeerError):
        connection.handle_time(32.0)


@pytest.mark.parametrize(
    "fail",
    [
        fail_by_version,
        fail_by_version_frame,
        fail_by_handshake,
        fail_by_length,
        fail_by_seal,
        fail_by_silence,
    ],
)
def test_a_failed_connection_is_used_no_more(fail):
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


def parses_or_peer_error(connection: Connection, data: bytes) -> None:
    """Whatever comes in: events or a PeerError, nothing else."""
    try:
        receive(connection, data)
    except PeerError:
        pass


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=120).map(in_frame) | st.binary(max_size=20), max_size=4).map(b"".join))
def test_whatever_a_stranger_says_is_an_event_or_a_peer_error(data):
    parses_or_peer_error(relay(), data)
    parses_or_peer_error(relay(), VERSION_FRAME + data)
    parses_or_peer_error(after_first()[0], data)


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, len(STREAM) - 1),
    st.sampled_from(["flip", "drop", "double", "insert"]),
    st.integers(1, 255),
)
def test_a_conversation_damaged_anywhere_is_true_events_up_to_a_peer_error(place, damage, value):
    byte = STREAM[place : place + 1]
    replacement = {
        "flip": bytes([byte[0] ^ value]),
        "drop": b"",
        "double": byte * 2,
        "insert": bytes([value]) + byte,
    }[damage]
    dialled = relay()
    dialled.receive_data(STREAM[:place] + replacement + STREAM[place + 1 :])
    events: list[Event] = []
    try:
        while True:
            event = dialled.next_event(0.0)
            if event is None:
                break
            events.append(event)
    except PeerError:
        pass
    assert events == EVENTS[: len(events)]


# The observer.


def test_the_observer_is_told_each_layers_value_in_order():
    log: list[tuple[str, object]] = []
    dialling, dialled = node(observer=lambda *told: log.append(told)), relay()

    def told() -> list[tuple[str, str]]:
        """What was told since the last time, by its type; the payloads by their sizes."""
        entries = [(d, f"{len(v)} bytes" if isinstance(v, bytes) else type(v).__name__) for d, v in log]
        log.clear()
        return entries

    to_relay = dialling.data_to_send()
    sizes = [f"{len(payload)} bytes" for payload in cut_frames(to_relay)]
    assert sizes[0] == "4 bytes"
    assert told() == [("sent", "ExchangeRandNonce"), ("sent", sizes[0]), ("sent", sizes[1])]

    receive(dialled, to_relay)
    to_node = dialled.data_to_send()
    sizes = [f"{len(payload)} bytes" for payload in cut_frames(to_node)]
    receive(dialling, to_node)
    assert told() == [
        ("received", sizes[0]),
        ("received", sizes[1]),
        ("received", "ExchangeRandNonce"),
        ("sent", "ExchangeDh"),
        ("received", sizes[2]),
        ("received", "ExchangeDh"),
    ]

    payload = cut_frames(dialling.data_to_send())[0]
    assert told() == [("sent", f"{len(payload)} bytes")]
    receive(dialled, in_frame(payload))

    payload = cut_frames(frame_from(dialling))[0]
    assert told() == [("sent", "KaMessage"), ("sent", "ChannelMessage"), ("sent", f"{len(payload)} bytes")]
    receive(dialled, in_frame(payload))

    to_node = frame_from(dialled)
    receive(dialling, to_node)
    assert told() == [("received", f"{len(to_node) - 8} bytes")] + [
        ("received", "ChannelMessage"),
        ("received", "KaMessage"),
    ]

    dialling.handle_time(16.0)
    dialled.secure_channel.start_rekey(0.0)
    assert told() == [("sent", "KaMessage"), ("sent", "ChannelMessage")]
    receive(dialling, dialled.data_to_send())
    received, answered = log[-2:]
    assert received[0] == "received" and answered[0] == "sent"
    for value in (received[1], answered[1]):
        assert isinstance(value, ChannelMessage) and isinstance(value.content, Rekey)


def test_the_observer_is_told_the_very_values():
    log: list[object] = []
    dialling, dialled = node(observer=lambda direction, value: log.append(value)), relay()
    converse(dialling, dialled)
    first, second = (v for v in log if isinstance(v, ExchangeRandNonce))
    assert (first.src_public_key, second.src_public_key) == (NODE.public_key, RELAY.public_key)
    assert first.opt_dest_public_key == RELAY.public_key and second.opt_dest_public_key is None
    ours, theirs = (v for v in log if isinstance(v, ExchangeDh))
    assert (ours.rand_nonce, theirs.rand_nonce) == (second.rand_nonce, first.rand_nonce)
    log.clear()
    receive(dialling, frame_from(dialled, b"hello"))
    assert log[-1] == KaMessage(b"hello")


def test_an_event_shows_the_size_of_a_message_and_not_its_bytes():
    assert repr(MessageReceived(b"secret")) == "MessageReceived(6 bytes)"
