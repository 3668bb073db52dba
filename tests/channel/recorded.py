"""Recorded connections of the original programs, decrypted without the code under test.

The keys are recorded; decryption is done by `cryptography` and decoding by pycapnp.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.channel.connection import Connection
from offset_common.channel.secure_channel import Observer
from offset_common.identity import Identity
from offset_common.wire import messages
from tests.channel.peers import Randomness
from tests.wire import oracle

FOLDER = Path(__file__).parents[1] / "vectors"
HANDSHAKE_FRAMES = 3  # version, ExchangeRandNonce, ExchangeDh


class Frame(NamedTuple):
    """A payload and its direction, "sent" or "received"."""

    direction: str
    payload: bytes


class Recording:
    """One recorded connection to an original relay.

    Args:
        fields: as in the file.
    """

    def __init__(self, fields: dict[str, Any]) -> None:
        self._fields = fields
        self.frames = [Frame(f["direction"], base64.b64decode(f["payload"])) for f in fields["frames"]]
        self.messages = [base64.b64decode(m) for m in fields.get("messages", [])]
        self.keepalives: int = fields.get("keepalives", 0)
        self.role: str = fields.get("role", "")

    def bytes_of(self, name: str) -> bytes:
        """Return the bytes of a hex field."""
        return bytes.fromhex(self._fields[name])

    def payloads(self, direction: str) -> list[bytes]:
        """Return the payloads of one direction."""
        return [frame.payload for frame in self.frames if frame.direction == direction]

    def plaintexts(self, direction: str) -> Iterator[bytes]:
        """Decrypt the messages of one direction, under the keys of the rekey once they fit."""
        name = {"sent": "sending_key", "received": "receiving_key"}[direction]
        keys = [self.bytes_of(key) for key in (name, f"rekey_{name}") if key in self._fields]
        counter = 0
        for payload in self.payloads(direction)[HANDSHAKE_FRAMES:]:
            if payload[:12] != counter.to_bytes(12, "little"):
                del keys[0]
                counter = 0
            yield ChaCha20Poly1305(keys[0]).decrypt(counter.to_bytes(12, "little"), payload[12:], None)
            counter += 1

    def connection(self, observer: Optional[Observer] = None) -> Connection:
        """Return a connection of ours with the recorded secrets."""
        first = oracle.read(messages.ExchangeRandNonce, self.payloads("sent")[1])
        assert isinstance(first, messages.ExchangeRandNonce)
        secrets = [first.rand_nonce, self.bytes_of("dh_private_key"), self.bytes_of("sending_salt")]
        if "rekey_dh_private_key" in self._fields:
            secrets += [self.bytes_of("rekey_dh_private_key"), self.bytes_of("rekey_sending_salt")]
        return Connection(
            Identity.from_seed(self.bytes_of("identity_seed")),
            now=0.0,
            expected_peer=self.bytes_of("relay_public_key"),
            random_bytes=Randomness(0, tuple(secrets)),
            observer=observer,
        )


def load(name: str) -> list[Recording]:
    """Return the recordings of one file."""
    found = json.loads((FOLDER / name).read_text())
    return [Recording(fields) for fields in (found if isinstance(found, list) else [found])]


def decrypt_message(payload: bytes, key: bytes, counter: int) -> messages.ChannelMessage:
    """Decrypt one payload, which must be message `counter` under `key`."""
    assert payload[:12] == counter.to_bytes(12, "little")
    plaintext = ChaCha20Poly1305(key).decrypt(payload[:12], payload[12:], None)
    message = oracle.read(messages.ChannelMessage, plaintext)
    assert isinstance(message, messages.ChannelMessage)
    return message


def ka_message(message: messages.ChannelMessage) -> messages.KaMessage:
    """Read the KaMessage in the user data of `message`."""
    assert isinstance(message.content, bytes)
    value = oracle.read(messages.KaMessage, message.content)
    assert isinstance(value, messages.KaMessage)
    return value


def cut_frames(stream: bytes) -> list[bytes]:
    """Split a stream of complete frames into payloads."""
    payloads = []
    while stream:
        end = 8 + int.from_bytes(stream[:8], "big")
        assert end <= len(stream)
        payloads.append(stream[8:end])
        stream = stream[end:]
    return payloads


def in_frame(payload: bytes) -> bytes:
    """Return the frame of a payload."""
    return len(payload).to_bytes(8, "big") + payload
