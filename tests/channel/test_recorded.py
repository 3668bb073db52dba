"""Recorded connections to the original relay, repeated with the recorded secrets."""

from __future__ import annotations

from typing import Optional

import pytest

from offset_common.channel.connection import Connection
from offset_common.channel.events import Event, HandshakeCompleted, MessageReceived
from offset_common.channel.secure_channel import Observer
from offset_common.wire import messages
from tests.channel.peers import receive
from tests.channel.recorded import Recording, cut_frames, decrypt_message, in_frame, ka_message, load
from tests.wire import oracle

HANDSHAKES = load("handshake.json")
CHANNELS = load("channel.json")
(REKEY,) = load("rekey.json")
ALL = [*HANDSHAKES, *CHANNELS, REKEY]
NAMES = [f"handshake-{i}" for i in range(len(HANDSHAKES))] + [c.role for c in CHANNELS] + ["rekey"]


def shake_hands(recording: Recording, observer: Optional[Observer] = None) -> Connection:
    """Complete our side of a recorded handshake."""
    connection = recording.connection(observer)
    events = receive(connection, b"".join(map(in_frame, recording.payloads("received")[:3])))
    assert events == [HandshakeCompleted(recording.bytes_of("relay_public_key"))]
    return connection


@pytest.mark.parametrize("recording", ALL, ids=NAMES)
def test_handshake_frames_are_the_recorded_ones(recording):
    connection = recording.connection()
    sent = cut_frames(connection.data_to_send())
    events: list[Event] = []
    for payload in recording.payloads("received")[:3]:
        assert events == []
        events += receive(connection, in_frame(payload))
        sent += cut_frames(connection.data_to_send())
    assert events == [HandshakeCompleted(recording.bytes_of("relay_public_key"))]
    recorded = recording.payloads("sent")
    assert sent[0] == recorded[0]
    assert len(sent) == 3
    for kind, ours, theirs in zip((messages.ExchangeRandNonce, messages.ExchangeDh), sent[1:], recorded[1:3]):
        assert oracle.read(kind, ours) == oracle.read(kind, theirs)


@pytest.mark.parametrize("recording", ALL, ids=NAMES)
def test_handshake_derives_the_recorded_keys(recording):
    secure = shake_hands(recording).secure_channel
    assert secure.sending.key == recording.bytes_of("sending_key")
    assert secure.receiving.key == recording.bytes_of("receiving_key")
    assert secure.peer_public_key == recording.bytes_of("relay_public_key")


@pytest.mark.parametrize("recording", CHANNELS, ids=lambda recording: recording.role)
def test_messages_of_the_original_relay_are_received(recording):
    seen = []
    connection = shake_hands(recording, lambda direction, value: seen.append((direction, value)))
    stream = b"".join(map(in_frame, recording.payloads("received")[3:]))
    assert receive(connection, stream) == [MessageReceived(message) for message in recording.messages]
    assert seen.count(("received", messages.KaMessage(None))) == recording.keepalives


@pytest.mark.parametrize("recording", CHANNELS, ids=lambda recording: recording.role)
def test_our_messages_equal_those_of_the_original_node(recording):
    connection = shake_hands(recording)
    connection.data_to_send()
    key = recording.bytes_of("sending_key")
    said = [
        ka_message(decrypt_message(payload, key, counter))
        for counter, payload in enumerate(recording.payloads("sent")[3:])
    ]
    assert said
    for value in said:
        assert value.message is not None
        connection.send(value.message, now=0.0)
    encrypted = cut_frames(connection.data_to_send())
    assert [
        ka_message(decrypt_message(payload, key, counter)) for counter, payload in enumerate(encrypted)
    ] == said


def test_rekey_derives_the_recorded_keys():
    connection = shake_hands(REKEY)
    connection.data_to_send()
    recorded = REKEY.payloads("sent")[3:]
    before, answer, after = (in_frame(payload) for payload in REKEY.payloads("received")[3:])
    old, new = REKEY.bytes_of("sending_key"), REKEY.bytes_of("rekey_sending_key")
    first, last = (ka_message(decrypt_message(recorded[i], k, n)) for i, k, n in ((0, old, 0), (2, new, 0)))
    assert first.message is not None and last.message is not None

    connection.send(first.message, now=0.0)
    connection.secure_channel.start_rekey(now=0.0)
    sent = cut_frames(connection.data_to_send())
    assert receive(connection, before) == [MessageReceived(REKEY.messages[0])]
    assert receive(connection, answer) == []
    assert receive(connection, after) == [MessageReceived(REKEY.messages[1])]
    connection.send(last.message, now=0.0)
    sent += cut_frames(connection.data_to_send())

    assert connection.secure_channel.sending.key == new
    assert connection.secure_channel.receiving.key == REKEY.bytes_of("rekey_receiving_key")
    assert len(sent) == 3
    assert ka_message(decrypt_message(sent[0], old, 0)) == first
    assert decrypt_message(sent[1], old, 1).content == decrypt_message(recorded[1], old, 1).content
    assert ka_message(decrypt_message(sent[2], new, 0)) == last
