"""A Connection before its handshake is done: events or PeerError, and no key but the node's is proven."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import Event, HandshakeCompleted
from offset_common.errors import LocalProtocolError, PeerError
from offset_common.wire.frames import encode_frame
from tests.channel import peers
from tests.fuzz import vectors
from tests.fuzz.script import read_steps, write_steps

MAX_SIZE = 4096
PIECE = 7  # bytes received at once in the second run


class Step(enum.IntEnum):
    """The source of the next bytes of the stream."""

    HONEST = 0  # the next payload of a node, in its frame
    CHANGED = 1  # the same, XORed with the content from a position on
    PAYLOAD = 2  # the content, in a frame
    STREAM = 3  # the content


def seeds() -> Iterator[bytes]:
    """Yield recorded handshakes, valid ones, and valid ones with one changed step."""
    honest = (Step.HONEST, b"")
    for payloads in vectors.handshakes():
        yield write_steps(*((Step.PAYLOAD, payload) for payload in payloads))
        yield write_steps((Step.STREAM, b"".join(map(encode_frame, payloads))))
        yield write_steps(honest, honest, (Step.PAYLOAD, payloads[2]))
    yield write_steps(honest, honest, honest, (Step.PAYLOAD, b"encrypted"))
    for position in (0, 1, 2, 30, 90):
        for place in range(3):
            steps = [honest] * 3
            steps[place] = (Step.CHANGED, bytes((position, 1)))
            yield write_steps(*steps)


def run(data: bytes) -> None:
    """Pass the stream to a relay's connection, at once and in pieces."""
    stream = b"".join(_stream(data))
    whole = _listen((stream,))
    pieces = (stream[start : start + PIECE] for start in range(0, len(stream), PIECE))
    assert _listen(pieces) == whole
    for event in whole[0]:
        # No MessageReceived is possible without the keys.
        assert event == HandshakeCompleted(peers.NODE.public_key)


def _stream(data: bytes) -> Iterator[bytes]:
    honest = iter(_honest_payloads())
    for kind, content in read_steps(data):
        step = Step(kind % len(Step))
        if step is Step.STREAM:
            yield content
            continue
        payload = content if step is Step.PAYLOAD else next(honest, b"")
        if step is Step.CHANGED and content:
            payload = _changed(payload, content[0], content[1:])
        yield encode_frame(payload)


def _changed(payload: bytes, position: int, mask: bytes) -> bytes:
    changed = bytearray(payload)
    for at, bits in zip(range(position, len(changed)), mask):
        changed[at] ^= bits
    return bytes(changed)


_honest: list[bytes] = []


def _honest_payloads() -> list[bytes]:
    """Return the payloads that the node sends to a relay with fixed randomness."""
    if not _honest:
        node, relay = peers.node(), peers.relay()
        sent: list[bytes] = []
        node._observer = lambda direction, value: (
            sent.append(value) if direction == "sent" and isinstance(value, bytes) else None
        )
        peers.converse(node, relay)
        _honest.extend(sent)
    return _honest


def _listen(pieces: Iterable[bytes]) -> tuple[list[Event], Optional[str], bytes]:
    connection = peers.relay()
    events: list[Event] = []
    sent = connection.data_to_send()
    for piece in pieces:
        connection.receive_data(piece)
        try:
            while (event := connection.next_event(0.0)) is not None:
                events.append(event)
        except PeerError as error:
            _check_failed(connection)
            return events, repr(error), sent + connection.data_to_send()
        sent += connection.data_to_send()
    return events, None, sent


def _check_failed(connection: Connection) -> None:
    assert not connection.established
    try:
        connection.next_event(0.0)
    except LocalProtocolError:
        return
    raise AssertionError("a connection continues after a PeerError")
