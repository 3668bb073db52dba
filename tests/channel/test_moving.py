"""An exported connection continues in another process, and its peer can't tell the difference."""

from __future__ import annotations

import json

import pytest

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.constants import MAX_REKEYS_IN_WINDOW, REKEY_INTERVAL
from offset_common.errors import LocalProtocolError, RekeyError
from tests.channel.peers import converse, established, receive, relay


def moved(connection: Connection) -> Connection:
    """Export a connection as JSON, and import it."""
    return Connection.import_state(json.loads(json.dumps(connection.export_state())))


def say(one: Connection, other: Connection, words: bytes) -> None:
    """Send one message, and check that it arrives."""
    one.send(words, 0.0)
    assert converse(one, other)[1] == [MessageReceived(words)]


def test_messages_pass_both_ways_after_a_move() -> None:
    there, here = established()
    say(there, here, b"before")
    say(here, there, b"before, back")
    here = moved(here)
    assert here.established and here.peer_public_key == here.secure_channel.peer_public_key
    say(there, here, b"after")
    say(here, there, b"after, back")


def test_move_during_a_rekey_keeps_both_receiving_keys() -> None:
    there, here = established()
    there.secure_channel.start_rekey(0.0)
    receive(here, there.data_to_send())
    there.send(b"under the old key", 0.0)
    late = there.data_to_send()
    answer = here.data_to_send()
    here = moved(here)
    assert receive(here, late) == [MessageReceived(b"under the old key")]
    receive(there, answer)
    say(there, here, b"under the new key")
    say(here, there, b"and back")


def test_connection_with_a_pending_rekey_does_not_move() -> None:
    _, here = established()
    here.secure_channel.start_rekey(0.0)
    with pytest.raises(LocalProtocolError):
        here.export_state()


def test_connection_without_a_handshake_does_not_move() -> None:
    with pytest.raises(LocalProtocolError):
        relay().export_state()


def test_times_of_a_connection_move_with_it() -> None:
    there, here = established(now=100.0)
    there.send(b"hello", 120.0)
    receive(here, there.data_to_send(), 120.0)
    moved_here = moved(here)
    assert moved_here.next_deadline() == here.next_deadline()
    moved_here.last_received = moved_here.last_sent = 100.0 + REKEY_INTERVAL
    for seconds, due in ((REKEY_INTERVAL - 1.0, False), (REKEY_INTERVAL, True)):
        moved_here.handle_time(100.0 + seconds)
        assert bool(moved_here.data_to_send()) is due, "the rekey of the hour"


def test_move_does_not_forget_how_often_the_peer_rekeyed() -> None:
    there, here = established()
    for _ in range(MAX_REKEYS_IN_WINDOW):
        there.secure_channel.start_rekey(0.0)
        converse(there, here)
        say(there, here, b"the old key can be dropped")
        say(here, there, b"here as well")
        here = moved(here)
    there.secure_channel.start_rekey(0.0)
    with pytest.raises(RekeyError):
        receive(here, there.data_to_send())
