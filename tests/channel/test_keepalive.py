"""Keepalives, the idle timeout and rekeys on a virtual clock."""

from __future__ import annotations

import pytest

from offset_common.channel.connection import Connection
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
    client = node(START)
    assert client.next_deadline() == START + 32
    client.handle_time(START + 32 - JUST_BEFORE)
    with pytest.raises(SilenceError):
        client.handle_time(START + 32)


def test_each_handshake_frame_restarts_the_idle_timeout():
    client, server = node(START), relay(START)
    receive(client, server.data_to_send(), START + 10)
    assert client.next_deadline() == START + 42


def test_keepalive_is_sent_after_16_s_without_sending():
    client, _ = established(START)
    assert client.next_deadline() == START + 16
    client.handle_time(START + 16 - JUST_BEFORE)
    assert client.data_to_send() == b""
    client.handle_time(START + 16)
    assert sent_values(client) == [KaMessage(None)]
    client.handle_time(START + 17)
    assert client.data_to_send() == b""


def test_sent_message_postpones_the_keepalive():
    client, _ = established(START)
    client.send(b"message", START + 10)
    assert sent_values(client) == [KaMessage(b"message")]
    assert client.next_deadline() == START + 26
    client.handle_time(START + 26 - JUST_BEFORE)
    assert client.data_to_send() == b""
    client.handle_time(START + 26)
    assert sent_values(client, first_counter=1) == [KaMessage(None)]


def test_received_message_does_not_postpone_the_keepalive():
    client, server = established(START)
    server.send(b"message", START + 10)
    receive(client, server.data_to_send(), START + 10)
    assert client.next_deadline() == START + 16


def test_peer_that_is_silent_for_32_s_ends_the_connection():
    client, _ = established(START)
    client.handle_time(START + 31)
    assert client.next_deadline() == START + 32
    client.handle_time(START + 32 - JUST_BEFORE)
    with pytest.raises(SilenceError, match="32 s"):
        client.handle_time(START + 32)
    assert not client.established


@pytest.mark.parametrize("kind", ["message", "keepalive", "rekey"])
def test_every_encrypted_message_restarts_the_idle_timeout(kind):
    client, server = established(START)
    if kind == "message":
        server.send(b"message", START + 20)
    elif kind == "keepalive":
        server.handle_time(START + 20)
    else:
        server.secure_channel.start_rekey(START + 20)
    receive(client, server.data_to_send(), START + 20)
    client.handle_time(START + 52 - JUST_BEFORE)
    assert client.next_deadline() == START + 52
    with pytest.raises(SilenceError):
        client.handle_time(START + 52)


def test_half_a_frame_does_not_restart_the_idle_timeout():
    client, server = established(START)
    server.send(b"message", START + 20)
    assert receive(client, server.data_to_send()[:-1], START + 20) == []
    with pytest.raises(SilenceError):
        client.handle_time(START + 32)


def test_silence_does_not_count_while_reading_is_paused():
    client, _ = established(START)
    client.mark_received(START + 40)
    client.handle_time(START + 40)
    assert sent_values(client) == [KaMessage(None)], "keepalives continue"
    client.handle_time(START + 72 - JUST_BEFORE)
    with pytest.raises(SilenceError):
        client.handle_time(START + 72)


def test_rekey_starts_after_an_hour():
    client, server = established(START)
    hour = START + 3600
    for side in (client, server):
        side.mark_received(hour)
        side.last_sent = hour
        side.handle_time(hour - JUST_BEFORE)
        assert side.data_to_send() == b""
        assert side.next_deadline() == hour
    keys = client.secure_channel.sending.key, client.secure_channel.receiving.key
    client.handle_time(hour)
    assert client.next_deadline() == hour + 16
    converse(client, server, hour)
    assert not {client.secure_channel.sending.key, client.secure_channel.receiving.key} & set(keys)
    assert server.secure_channel.rekey_at == hour + 3600, (
        "a side that answered a rekey starts none for an hour"
    )


def test_idle_connection_stays_open_for_hours():
    client, server = established(START)
    now, keepalives, changes = START, 0, 0
    while now < START + 2 * 3600 + 60:
        when = min(client.next_deadline(), server.next_deadline())
        assert when > now, "a deadline was not met"
        now = when
        key = client.secure_channel.sending.key
        for side in (client, server):
            if side.next_deadline() <= now:
                side.handle_time(now)
                keepalives += 1
        converse(client, server, now)
        changes += key != client.secure_channel.sending.key
    assert changes == 2
    assert keepalives == 2 * 454, "one in 16 s from each side, and two rekeys"


@pytest.mark.parametrize("first", [0, 127, 128, 255])
def test_keepalive_is_padded_with_at_most_127_bytes(first):
    secrets = Randomness(1)
    client = Connection(
        NODE, START, None, lambda size: bytes([first]) * size if size not in (16, 32) else secrets(size)
    )
    converse(client, Connection(RELAY, START, None, Randomness(2)), START)
    client.handle_time(START + 16)
    client.send(b"message", START + 16)
    key = client.secure_channel.sending.key
    keepalive, message = (
        decrypt_message(payload, key, i) for i, payload in enumerate(cut_frames(client.data_to_send()))
    )
    assert len(keepalive.rand_padding) == first % 128 <= MAX_KEEPALIVE_PADDING_SENT
    assert len(message.rand_padding) == first
