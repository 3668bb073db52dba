"""Established connections by the thousand: one handshake, and copies of what came of it."""

from __future__ import annotations

import functools
import json
from typing import Any

from offset_common.channel.cipher import CipherState
from offset_common.channel.connection import Connection
from offset_common.channel.keepalive import KeepaliveChannel
from tests.channel import peers

NOW = 5.0  # seconds


@functools.cache
def _states() -> tuple[dict[str, Any], dict[str, Any]]:
    near, relay = peers.established(NOW)
    return near.export_state(), relay.export_state()


def connection(state: dict[str, Any], observed: bool = False) -> Connection:
    """Go on with an exported connection, with randomness that is the same each time.

    Args:
        state: as exported.
        observed: somebody watches; every layer then takes the plain way.
    """
    copy = Connection.import_state(state)
    copy.channel = KeepaliveChannel.import_state(state, peers.Randomness(3))
    if observed:
        copy._observer = copy.channel._observer = copy.secure_channel._observer = _ignore
    return copy


def near() -> Connection:
    """The node's side of the handshake."""
    return connection(_states()[0])


def relay(observed: bool = False) -> Connection:
    """The relay's side of it."""
    return connection(_states()[1], observed)


def moved(old: Connection, observed: bool = False) -> Connection:
    """Move a connection as if to another process; LocalProtocolError while its rekey is pending."""
    new = connection(json.loads(json.dumps(old.export_state())), observed)
    new.receive_data(old.take_received())
    return new


def seal_for(receiver: Connection, plaintext: bytes, newest: bool = False) -> bytes:
    """Seal a plaintext as the receiver's peer, whatever keys came of what it sent before.

    Args:
        receiver: established.
        plaintext: what is sealed, a message or not.
        newest: under the key of the last rekey, where the one before is still good.
    """
    secure = receiver.secure_channel
    state = secure.receiving if newest or secure.old_receiving is None else secure.old_receiving
    return CipherState(state.key, state.counter).seal(plaintext)


def _ignore(direction: str, value: object) -> None:
    pass
