"""An established Connection: events or PeerError, the same whether or not it is observed.

Plaintexts are encrypted under the right key, so that they get past the cipher.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.errors import LocalProtocolError, PeerError
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, KaMessage, Rekey
from tests.fuzz import established, vectors
from tests.fuzz.script import read_steps, write_steps

MAX_SIZE = 8192


class Step(enum.IntEnum):
    """What happens to the connection; the content of the step is what the name says."""

    PLAINTEXT = 0  # encrypted, under the oldest key that is good
    PLAINTEXT_UNDER_NEWEST = 1
    USER_DATA = 2  # in a ChannelMessage
    MESSAGE = 3  # in a KaMessage in it
    REKEY = 4  # a Diffie-Hellman key and a salt
    PAYLOAD = 5  # not encrypted
    STREAM = 6  # not even in a frame
    PAUSE = 7  # so many seconds pass
    START_REKEY = 8
    MOVE = 9  # to another process
    TAMPERED = 10  # encrypted, then changed in its last bit


def seeds() -> Iterator[bytes]:
    """Recorded plaintexts, alone and between rekeys."""
    for plaintext in vectors.plaintexts():
        yield write_steps((Step.PLAINTEXT, plaintext))
        yield write_steps(
            (Step.START_REKEY, b""), (Step.PLAINTEXT, plaintext), (Step.REKEY, bytes(range(9, 73)))
        )
    for user in vectors.user_data():
        yield write_steps((Step.MOVE, b""), (Step.USER_DATA, user), (Step.PAUSE, b"\x11"))
    rekey = (Step.REKEY, bytes(range(9, 73)))
    yield write_steps(
        rekey, (Step.MESSAGE, b"old"), (Step.PLAINTEXT_UNDER_NEWEST, vectors.plaintexts()[0]), rekey
    )
    yield write_steps((Step.REKEY, bytes(64)))
    yield write_steps((Step.PAYLOAD, b"short"))
    yield write_steps((Step.MESSAGE, b"whole"), (Step.TAMPERED, b"not"))
    yield write_steps((Step.STREAM, b"\xff" * 8))


def run(data: bytes) -> None:
    """Play the script to a connection without an observer, and to one with it."""
    assert _play(data, observed=False) == _play(data, observed=True)


def _play(data: bytes, observed: bool) -> tuple[list[bytes], Optional[str], bytes]:
    """Return the messages that came, the fault, and what the connection sent."""
    connection = established.relay(observed)
    now = established.NOW
    messages: list[bytes] = []
    sent = b""
    for kind, content in read_steps(data):
        step = Step(kind % len(Step))
        now += content[0] if step is Step.PAUSE and content else 0
        try:
            connection = _take(connection, step, content, now, observed)
            messages += _messages(connection, now)
        except PeerError as error:
            _check_failed(connection, now)
            return messages, repr(error), sent
        sent += connection.data_to_send()
    return messages, None, sent


def _take(connection: Connection, step: Step, content: bytes, now: float, observed: bool) -> Connection:
    if step is Step.PAUSE:
        connection.handle_time(now)
    elif step is Step.START_REKEY:
        connection.secure_channel.start_rekey(now)
    elif step is Step.MOVE:
        try:
            return established.moved(connection, observed)
        except LocalProtocolError:
            assert connection.secure_channel.rekey_pending
    elif step is Step.STREAM:
        connection.receive_data(content)
    elif step is Step.PAYLOAD:
        connection.receive_data(encode_frame(content))
    else:
        newest = step is Step.PLAINTEXT_UNDER_NEWEST
        encrypted = established.encrypt_for(connection, _plaintext(step, content), newest)
        if step is Step.TAMPERED:
            encrypted = encrypted[:-1] + bytes((encrypted[-1] ^ 1,))
        connection.receive_data(encode_frame(encrypted))
    return connection


def _plaintext(step: Step, content: bytes) -> bytes:
    if step is Step.USER_DATA:
        return ChannelMessage(content[:9], content).encode()
    if step is Step.MESSAGE:
        return ChannelMessage(b"", KaMessage(content).encode()).encode()
    if step is Step.REKEY:
        content = content[:64].ljust(64, b"\x09")
        return ChannelMessage(b"", Rekey(content[:32], content[32:])).encode()
    return content


def _messages(connection: Connection, now: float) -> Iterator[bytes]:
    while (event := connection.next_event(now)) is not None:
        assert isinstance(event, MessageReceived)
        yield event.data


def _check_failed(connection: Connection, now: float) -> None:
    """A connection that failed takes nothing more, and says so."""
    assert not connection.established
    try:
        connection.next_event(now)
    except LocalProtocolError:
        return
    raise AssertionError("a connection goes on after its peer broke the protocol")
