"""Keepalives, the idle timeout and rekeys on a virtual clock."""

from __future__ import annotations

import pytest

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.channel.keepalive import ChannelState, KeepaliveChannel
from offset_common.constants import MAX_KEEPALIVE_PADDING_SENT
from offset_common.errors import SilenceError
from offset_common.wire.messages import KaMessage
from tests.channel.peers import NODE, RELAY, Randomness, converse, established, node, receive, relay
from tests.channel.recorded import cut_frames, decrypt_message, ka_message

START = 100.0
JUST_BEFORE = 1e-3


def sent_values(connection: Connection, first_counter: int = 0) -> list[KaMessage]:
    """Return the decrypted values that the connection sends."""
    key = connection.secure_channel.sending.key
    payloads = cut_frames(connection.data_to_send())
    return [ka_message(decrypt_message(p, key, counter)) for counter, p in enumerate(payloads, first_counter)]


def test_handshake_with_a_silent_peer_ends_after_32_s():
    dialling = node(START)
    assert dialling.next_deadline() == START + 32
    dialling.handle_time(START + 32 - JUST_BEFORE)
    with pytest.raises(SilenceError):
        dialling.handle_time(START + 32)


def test_each_handshake_frame_restarts_the_idle_timeout():
    dialling, dialled = node(START), relay(START)
    receive(dialling, dialled.data_to_send(), START + 10)
    assert dialling.next_deadline() == START + 42


def test_keepalive_is_sent_after_16_s_without_sending():
    dialling, _ = established(START)
    assert dialling.next_deadline() == START + 16
    dialling.handle_time(START + 16 - JUST_BEFORE)
    assert dialling.data_to_send() == b""
    dialling.handle_time(START + 16)
    assert sent_values(dialling) == [KaMessage(None)]
    dialling.handle_time(START + 17)
    assert dialling.data_to_send() == b""


def test_sent_message_postpones_the_keepalive():
    dialling, _ = established(START)
    dialling.send(b"message", START + 10)
    assert sent_values(dialling) == [KaMessage(b"message")]
    assert dialling.next_deadline() == START + 26
    dialling.handle_time(START + 26 - JUST_BEFORE)
    assert dialling.data_to_send() == b""
    dialling.handle_time(START + 26)
    assert sent_values(dialling, first_counter=1) == [KaMessage(None)]


def test_received_message_does_not_postpone_the_keepalive():
    dialling, dialled = established(START)
    dialled.send(b"message", START + 10)
    receive(dialling, dialled.data_to_send(), START + 10)
    assert dialling.next_deadline() == START + 16


def test_peer_that_is_silent_for_32_s_ends_the_connection():
    dialling, _ = established(START)
    dialling.handle_time(START + 31)
    assert dialling.next_deadline() == START + 32
    dialling.handle_time(START + 32 - JUST_BEFORE)
    with pytest.raises(SilenceError, match="32 s"):
        dialling.handle_time(START + 32)
    assert not dialling.established


@pytest.mark.parametrize("kind", ["message", "keepalive", "rekey"])
def test_every_encrypted_message_is_a_sign_of_life(kind):
    dialling, dialled = established(START)
    if kind == "message":
        dialled.send(b"message", START + 20)
    elif kind == "keepalive":
        dialled.handle_time(START + 20)
    else:
        dialled.secure_channel.start_rekey(START + 20)
    receive(dialling, dialled.data_to_send(), START + 20)
    dialling.handle_time(START + 52 - JUST_BEFORE)
    assert dialling.next_deadline() == START + 52
    with pytest.raises(SilenceError):
        dialling.handle_time(START + 52)


def test_half_a_frame_is_no_sign_of_life():
    dialling, dialled = established(START)
    dialled.send(b"message", START + 20)
    assert receive(dialling, dialled.data_to_send()[:-1], START + 20) == []
    with pytest.raises(SilenceError):
        dialling.handle_time(START + 32)


def test_silence_does_not_count_while_reading_is_paused():
    dialling, _ = established(START)
    dialling.mark_received(START + 40)
    dialling.handle_time(START + 40)
    assert sent_values(dialling) == [KaMessage(None)], "keepalives continue"
    dialling.handle_time(START + 72 - JUST_BEFORE)
    with pytest.raises(SilenceError):
        dialling.handle_time(START + 72)


def test_rekey_starts_after_an_hour():
    dialling, dialled = established(START)
    hour = START + 3600
    for side in (dialling, dialled):
        side.mark_received(hour)
        side.last_sent = hour
        side.handle_time(hour - JUST_BEFORE)
        assert not side.secure_channel.rekey_pending
        assert side.next_deadline() == hour
    keys = dialling.secure_channel.sending.key, dialling.secure_channel.receiving.key
    dialling.handle_time(hour)
    assert dialling.secure_channel.rekey_pending
    assert dialling.next_deadline() == hour + 16
    converse(dialling, dialled, hour)
    assert not {dialling.secure_channel.sending.key, dialling.secure_channel.receiving.key} & set(keys)
    assert dialled.secure_channel.rekey_at == hour + 3600, (
        "a side that answered a rekey starts none for an hour"
    )


def test_idle_connection_stays_open_for_hours():
    dialling, dialled = established(START)
    now, keepalives, changes = START, 0, 0
    while now < START + 2 * 3600 + 60:
        when = min(dialling.next_deadline(), dialled.next_deadline())
        assert when > now, "a deadline was not met"
        now = when
        key = dialling.secure_channel.sending.key
        for side in (dialling, dialled):
            if side.next_deadline() <= now:
                side.handle_time(now)
                keepalives += 1
        converse(dialling, dialled, now)
        changes += key != dialling.secure_channel.sending.key
    assert changes == 2
    assert keepalives == 2 * 454, "one in 16 s from each side, and two rekeys"


@pytest.mark.parametrize("first", [0, 127, 128, 255])
def test_keepalive_is_padded_with_at_most_127_bytes(first):
    secrets = Randomness(1)
    dialling = Connection(
        NODE, START, None, lambda size: bytes([first]) * size if size not in (16, 32) else secrets(size)
    )
    converse(dialling, Connection(RELAY, START, None, Randomness(2)), START)
    dialling.handle_time(START + 16)
    dialling.send(b"message", START + 16)
    key = dialling.secure_channel.sending.key
    keepalive, message = (
        decrypt_message(payload, key, i) for i, payload in enumerate(cut_frames(dialling.data_to_send()))
    )
    assert len(keepalive.rand_padding) == first % 128 <= MAX_KEEPALIVE_PADDING_SENT
    assert len(message.rand_padding) == first


def test_two_nodes_share_a_channel_through_their_tunnel():
    one = KeepaliveChannel(NODE, START, RELAY.public_key, Randomness(1))
    other = KeepaliveChannel(RELAY, START, NODE.public_key, Randomness(2))
    assert one.state is ChannelState.RAND_NONCE
    events = []
    while one.outgoing or other.outgoing:
        for sender, receiver in ((one, other), (other, one)):
            payloads, sender.outgoing[:] = list(sender.outgoing), []
            events += [receiver.receive_payload(payload, START) for payload in payloads]
    assert [event for event in events if event] == [
        HandshakeCompleted(RELAY.public_key),
        HandshakeCompleted(NODE.public_key),
    ]
    one.send(b"end to end", START)
    assert other.receive_payload(one.outgoing.pop(), START) == MessageReceived(b"end to end")
