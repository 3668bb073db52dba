"""Established connections by the thousand: one handshake, and copies of what came of it."""

from __future__ import annotations

import functools
import json
from typing import Any

from offset_common.channel.cipher import CipherState
from offset_common.channel.connection import Connection
from tests.channel import peers

NOW = 5.0  # seconds


@functools.cache
def _states() -> tuple[dict[str, Any], dict[str, Any]]:
    near, relay = peers.established(NOW)
    return near.export_state(), relay.export_state()


def connection(state: dict[str, Any], observed: bool = False) -> Connection:
    """Continue an exported connection, with randomness that is the same each time.

    Args:
        state: as exported.
        observed: whether an observer is there, so that every layer decodes everything.
    """
    copy = Connection.import_state(state, peers.Randomness(3))
    if observed:
        copy._observer = copy.secure_channel._observer = _ignore
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


def encrypt_for(receiver: Connection, plaintext: bytes, newest: bool = False) -> bytes:
    """Encrypt a plaintext as the receiver's peer, under the keys that it has now.

    Args:
        receiver: established.
        plaintext: a message or not.
        newest: under the key of the last rekey, even if the one before is still accepted.
    """
    secure = receiver.secure_channel
    state = secure.receiving if newest or secure.old_receiving is None else secure.old_receiving
    return CipherState(state.key, state.counter).encrypt(plaintext)


def _ignore(direction: str, value: object) -> None:
    pass
