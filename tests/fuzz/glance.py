"""The glance never accepts what the plain decoder refuses, and finds the same in what it accepts."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple, Optional

from offset_common.channel.glance import UNKNOWN, find_message, find_user
from offset_common.channel.repadding import Repadder
from offset_common.channel.resealing import LARGEST_PADDING_KEPT
from offset_common.errors import DecodeError
from offset_common.wire.messages import ChannelMessage, KaMessage, Rekey
from tests.channel.layouts import ENCODERS, as_unknown
from tests.fuzz import vectors

MAX_SIZE = 8192
REPADDER = Repadder(os.urandom)
BEHIND = (
    b"",
    b"\xff" * 3000,
    bytes(3000),
    b"\x01" * 3000,
)  # what the scratch buffer may hold behind a message


class Meaning(NamedTuple):
    """What a ChannelMessage with user data holds; `message` is None where that is no KaMessage `message`."""

    padding: int
    user: bytes
    message: Optional[bytes]


def seeds() -> Iterator[bytes]:
    """Recorded messages, and each layout that the glance knows, small and large."""
    yield from vectors.plaintexts()
    for payload in (b"", b"payload", bytes(70), b"\xff" * 2100, bytes(range(256)) * 12):
        for padding in (b"", b"padding", b"\xff" * 255, bytes(900)):
            for encode in (*ENCODERS, as_unknown):
                yield encode(payload, padding)


def run(data: bytes) -> None:
    """Look at the message with each kind of bytes behind it."""
    meaning = _meaning(data)
    user = find_user(data)
    assert user is None or (meaning is not None and user == meaning.user)
    for behind in BEHIND:
        scratch = bytearray(data + behind)
        padding, content = find_message(scratch, len(data), LARGEST_PADDING_KEPT)
        assert scratch == data + behind
        if padding == UNKNOWN:
            continue
        assert meaning is not None, "the glance accepts what is no ChannelMessage with user data"
        assert meaning.message is not None, "the glance accepts what is no message"
        assert padding == meaning.padding
        assert (content is not None) is (padding > LARGEST_PADDING_KEPT)
        if content is not None:
            anew = _meaning(REPADDER.write(content))
            assert anew is not None and anew.user == meaning.user, "less padding made another message"


def _meaning(packed: bytes) -> Optional[Meaning]:
    try:
        outer = ChannelMessage.decode(packed)
    except DecodeError:
        return None
    if isinstance(outer.content, Rekey):
        return None
    try:
        message = KaMessage.decode(outer.content).message
    except DecodeError:
        message = None
    return Meaning(len(outer.rand_padding), outer.content, message)
