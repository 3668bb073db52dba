"""First inputs, sent by the original programs: payloads of frames, and their plaintexts."""

from __future__ import annotations

import base64
import functools
import json
from pathlib import Path
from typing import Any, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.wire.messages import ChannelMessage

FOLDER = Path(__file__).parents[1] / "vectors"
NAMES = ("handshake", "channel", "rekey")
DIRECTIONS = {"sent": "sending_key", "received": "receiving_key"}
HANDSHAKE_FRAMES = 3  # version, ExchangeRandNonce, ExchangeDh
LARGEST_SEED = 20_000  # bytes; larger ones slow the search down and hold nothing new


@functools.cache
def _conversations() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name in NAMES:
        read: Union[list[dict[str, Any]], dict[str, Any]] = json.loads(
            (FOLDER / f"{name}.json").read_text("utf-8")
        )
        found += read if isinstance(read, list) else [read]
    return found


def _payloads(conversation: dict[str, Any], direction: str) -> list[bytes]:
    frames = conversation["frames"]
    return [base64.b64decode(frame["payload"]) for frame in frames if frame["direction"] == direction]


def handshakes() -> list[list[bytes]]:
    """The first three payloads of each side of each conversation."""
    return [
        _payloads(conversation, direction)[:HANDSHAKE_FRAMES]
        for conversation in _conversations()
        for direction in DIRECTIONS
    ]


def _opened(conversation: dict[str, Any], direction: str) -> list[bytes]:
    """Decrypt payloads, under the keys of the rekey once the first ones do not fit."""
    name = DIRECTIONS[direction]
    keys = [bytes.fromhex(conversation[key]) for key in (name, f"rekey_{name}") if key in conversation]
    found = []
    for payload in _payloads(conversation, direction)[HANDSHAKE_FRAMES:]:
        try:
            found.append(ChaCha20Poly1305(keys[0]).decrypt(payload[:12], payload[12:], None))
        except InvalidTag:
            del keys[0]
            found.append(ChaCha20Poly1305(keys[0]).decrypt(payload[:12], payload[12:], None))
    return found


@functools.cache
def plaintexts() -> list[bytes]:
    """The packed ChannelMessages of all conversations that are not too large."""
    found = [
        plaintext
        for conversation in _conversations()
        for direction in DIRECTIONS
        for plaintext in _opened(conversation, direction)
    ]
    return [plaintext for plaintext in found if len(plaintext) <= LARGEST_SEED]


def user_data() -> list[bytes]:
    """The packed KaMessages in them."""
    contents = [ChannelMessage.decode(plaintext).content for plaintext in plaintexts()]
    return [content for content in contents if isinstance(content, bytes)]


def role_messages() -> list[bytes]:
    """The packed messages of section 7 of docs/protocol.md, and what else the KaMessages held."""
    found = [
        base64.b64decode(message)
        for conversation in _conversations()
        for message in conversation.get("messages", ())
    ]
    return [message for message in found if len(message) <= LARGEST_SEED]


def files() -> list[bytes]:
    """The content of each file that the original tools wrote."""
    return [path.read_bytes() for path in sorted((FOLDER / "files").iterdir())]
