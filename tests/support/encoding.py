"""Messages and frames for test peers, written independently of the package.

Structured messages go through pycapnp where it is installed, which lays them out as released nodes do.
The two messages that carry bulk data also have a quick encoder here, which copies data unread.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Optional

from offset_common.wire.messages import ChannelMessage, KaMessage

oracle: Any
try:
    from tests.wire import oracle
except ImportError:  # this Python has no pycapnp: use the package's own codec instead
    oracle = None

VERSION = bytes(4)
MAX_RELEASED_PADDING = 65_535  # bytes of padding that a released node may add to a message

_ONE_WORD = struct.pack("<Q", 1)  # the second member of a union
_KA_HEAD = struct.pack("<iHH", 0, 1, 1) + _ONE_WORD


def frame(payload: bytes) -> bytes:
    """Return one frame."""
    return struct.pack(">Q", len(payload)) + payload


VERSION_FRAME = frame(VERSION)


def encode(message: Any) -> bytes:
    """Return the packed form of a message, in the layout of released nodes."""
    return bytes(oracle.packed(message)) if oracle else message.encode()


def decode(kind: Any, data: bytes) -> Any:
    """Read a packed message of a kind."""
    return oracle.read(kind, data) if oracle else kind.decode(data)


def channel_message(user: bytes, padding: int, released: bool) -> bytes:
    """Return the packed ChannelMessage around user data.

    Args:
        padding: bytes of random padding.
        released: whether to use the layout of released nodes.
    """
    noise = os.urandom(padding)
    if released:
        return encode(ChannelMessage(noise, user))
    words = -(-padding // 8)
    head = struct.pack("<iHHiI", 0, 0, 2, 1 << 2 | 1, padding << 3 | 2) + struct.pack(
        "<iHH", words << 2, 1, 1
    )
    content = _ONE_WORD + _data_pointer(len(user))
    return (
        _table(5 + words + -(-len(user) // 8)) + _pack(head) + literal(noise) + _pack(content) + literal(user)
    )


def ka_message(message: Optional[bytes], released: bool) -> bytes:
    """Return the packed KaMessage around a message, or a keepAlive for None."""
    if released or message is None:
        return encode(KaMessage(message))
    head = _KA_HEAD + _data_pointer(len(message))
    return _table(3 + -(-len(message) // 8)) + _pack(head) + literal(message)


def literal(data: bytes) -> bytes:
    """Pack data in runs of 256 words that are copied unread."""
    data += bytes(-len(data) % 8)
    runs = (data[start : start + 2048] for start in range(0, len(data), 2048))
    return b"".join(b"\xff" + run[:8] + bytes([len(run) // 8 - 1]) + run[8:] for run in runs)


def _data_pointer(size: int) -> bytes:
    return struct.pack("<iI", 1, size << 3 | 2)


def _table(words: int) -> bytes:
    return _pack(struct.pack("<II", 0, words))


def _pack(words: bytes) -> bytes:
    packed = bytearray()
    for start in range(0, len(words), 8):
        word = words[start : start + 8]
        tag = sum(1 << place for place, byte in enumerate(word) if byte)
        packed.append(tag)
        packed += word.replace(b"\0", b"")
        if tag in (0, 0xFF):
            packed.append(0)
    return bytes(packed)
