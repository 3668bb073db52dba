"""A node and a relay in memory, with fixed randomness."""

from __future__ import annotations

import random
from collections import deque
from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import Event, HandshakeCompleted
from offset_common.channel.secure_channel import Observer
from offset_common.identity import Identity

NODE = Identity.from_seed(b"\x01" * 32)
RELAY = Identity.from_seed(b"\x02" * 32)


class Randomness:
    """A source of bytes: first the given secrets, for requests of their size; then a fixed stream.

    Each size has its own stream, so that padding does not affect the keys.
    """

    def __init__(self, seed: int, secrets: tuple[bytes, ...] = ()) -> None:
        self._seed = seed
        self._secrets = deque(secrets)
        self._streams: dict[int, random.Random] = {}

    def __call__(self, size: int) -> bytes:
        if self._secrets and len(self._secrets[0]) == size:
            return self._secrets.popleft()
        stream = self._streams.setdefault(size, random.Random(f"{self._seed} {size}"))
        return stream.randbytes(size)


def node(now: float = 0.0, observer: Optional[Observer] = None) -> Connection:
    """Return a node that dials the relay."""
    return Connection(NODE, now, RELAY.public_key, Randomness(1), observer)


def relay(now: float = 0.0) -> Connection:
    """Return the relay."""
    return Connection(RELAY, now, None, Randomness(2))


def receive(connection: Connection, data: bytes, now: float = 0.0) -> list[Event]:
    """Pass bytes to a connection; return all events."""
    connection.receive_data(data)
    events: list[Event] = []
    while True:
        event = connection.next_event(now)
        if event is None:
            return events
        events.append(event)


def converse(one: Connection, other: Connection, now: float = 0.0) -> tuple[list[Event], list[Event]]:
    """Transfer bytes both ways until neither side sends any; return the events of each side."""
    events_of_one: list[Event] = []
    events_of_other: list[Event] = []
    while True:
        to_other, to_one = one.data_to_send(), other.data_to_send()
        if not to_other and not to_one:
            return events_of_one, events_of_other
        events_of_other += receive(other, to_other, now)
        events_of_one += receive(one, to_one, now)


def established(now: float = 0.0) -> tuple[Connection, Connection]:
    """Return a node and a relay that have completed their handshake."""
    client, server = node(now), relay(now)
    events = converse(client, server, now)
    assert events == ([HandshakeCompleted(RELAY.public_key)], [HandshakeCompleted(NODE.public_key)])
    return client, server
