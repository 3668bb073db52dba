"""The same bytes produce the same events however they are split; any input produces events or a PeerError."""

from __future__ import annotations

from typing import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.channel.events import Event, HandshakeCompleted, MessageReceived
from offset_common.errors import PeerError
from tests.channel.peers import NODE, Randomness, node, receive, relay
from tests.channel.recorded import cut_frames, in_frame

MESSAGES = [b"", b"one", bytes(1000), bytes(range(256)) * 8, b"two"]


def recorded_stream() -> tuple[bytes, list[Event]]:
    """Return what a node sends to a relay, including a rekey and a keepalive, and its events."""
    client, server = node(), relay()
    stream, events = bytearray(), []
    steps: list[Callable[[], None]] = [lambda: None] * 3
    steps += [lambda message=message: client.send(message, 0.0) for message in MESSAGES]  # type: ignore[misc]
    steps += [lambda: client.secure_channel.start_rekey(0.0), lambda: client.handle_time(16.0)]
    steps += [lambda message=message: client.send(message, 16.0) for message in MESSAGES]  # type: ignore[misc]
    for step in steps:
        step()
        said = client.data_to_send()
        stream += said
        events += receive(server, said)
        receive(client, server.data_to_send())
    assert events == [
        HandshakeCompleted(NODE.public_key),
        *(MessageReceived(message) for message in MESSAGES * 2),
    ]
    return bytes(stream), events


STREAM, EVENTS = recorded_stream()
CUTS = st.lists(st.integers(0, len(STREAM)), max_size=30).map(sorted)


# Splitting.


@settings(max_examples=60)
@given(CUTS, st.binary(max_size=7))
def test_split_stream_gives_the_same_events_and_the_rest(cuts, trailing):
    server = relay()
    stream, events = STREAM + trailing, []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)]):
        events += receive(server, stream[begin:end])
    assert events == EVENTS
    assert server.received_size == len(trailing)
    assert server.take_received() == trailing
    assert server.received_size == 0


def test_payloads_can_be_received_without_frames():
    server = relay()
    events = [server.receive_frame(payload, 0.0) for payload in cut_frames(STREAM)]
    assert [event for event in events if event is not None] == EVENTS


def test_version_is_sent_first_unless_already_sent():
    everything = Connection(NODE, 0.0, None, Randomness(1)).data_to_send()
    rest = Connection(NODE, 0.0, None, Randomness(1), version_sent=True).data_to_send()
    assert everything == VERSION_FRAME + rest
    assert bytes.fromhex("00000000 00000004 00000000") == VERSION_FRAME


# Damage.


def parses_or_peer_error(connection: Connection, data: bytes) -> None:
    """Check that input produces events or a PeerError, and nothing else."""
    try:
        receive(connection, data)
    except PeerError:
        pass


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=120).map(in_frame) | st.binary(max_size=20), max_size=4).map(b"".join))
def test_any_input_is_an_event_or_a_peer_error(data):
    parses_or_peer_error(relay(), data)
    parses_or_peer_error(relay(), VERSION_FRAME + data)
    begun = relay()
    receive(begun, node().data_to_send())
    parses_or_peer_error(begun, data)


@settings(max_examples=100)
@given(
    st.integers(0, len(STREAM) - 1),
    st.sampled_from(["flip", "drop", "double", "insert"]),
    st.integers(1, 255),
)
def test_damaged_stream_produces_no_wrong_event(place, damage, value):
    byte = STREAM[place : place + 1]
    replacement = {
        "flip": bytes([byte[0] ^ value]),
        "drop": b"",
        "double": byte * 2,
        "insert": bytes([value]) + byte,
    }[damage]
    server = relay()
    server.receive_data(STREAM[:place] + replacement + STREAM[place + 1 :])
    events: list[Event] = []
    try:
        while True:
            event = server.next_event(0.0)
            if event is None:
                break
            events.append(event)
    except PeerError:
        pass
    assert events == EVENTS[: len(events)]


# The observer.


def test_event_repr_hides_the_message():
    assert repr(MessageReceived(b"secret")) == "MessageReceived(6 bytes)"
