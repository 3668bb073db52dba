"""Seeds from recordings of the original programs: payloads of frames, and their plaintexts."""

from __future__ import annotations

import functools

from offset_common.wire.messages import ChannelMessage
from tests.channel.recorded import HANDSHAKE_FRAMES, Recording, load

NAMES = ("handshake", "channel", "rekey")
DIRECTIONS = ("sent", "received")
LARGEST_SEED = 20_000  # bytes; larger ones slow the search down and add nothing


@functools.cache
def _recordings() -> list[Recording]:
    return [recording for name in NAMES for recording in load(f"{name}.json")]


def handshakes() -> list[list[bytes]]:
    """Return the first three payloads of each side of each recording."""
    return [
        recording.payloads(direction)[:HANDSHAKE_FRAMES]
        for recording in _recordings()
        for direction in DIRECTIONS
    ]


@functools.cache
def plaintexts() -> list[bytes]:
    """Return the packed ChannelMessages of all recordings, except large ones."""
    return [
        plaintext
        for recording in _recordings()
        for direction in DIRECTIONS
        for plaintext in recording.plaintexts(direction)
        if len(plaintext) <= LARGEST_SEED
    ]


def user_data() -> list[bytes]:
    """Return the packed KaMessages in them."""
    contents = [ChannelMessage.decode(plaintext).content for plaintext in plaintexts()]
    return [content for content in contents if isinstance(content, bytes)]


def role_messages() -> list[bytes]:
    """Return the messages in the KaMessages, such as those of section 7 of docs/protocol.md."""
    found = [message for recording in _recordings() for message in recording.messages]
    return [message for message in found if len(message) <= LARGEST_SEED]
