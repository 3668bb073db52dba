"""Writes a ChannelMessage anew with little padding; all behind the padding stays as it came, still packed.

Released nodes put 32 KiB of padding on a message, on average; it need not be sealed and sent once more.
"""

from __future__ import annotations

import functools
import struct

from offset_common.channel.glance import Content
from offset_common.channel.handshake import RandomBytes
from offset_common.constants import MAX_PADDING_SENT
from offset_common.wire.capnp import segment_table
from offset_common.wire.messages import packed_begin
from offset_common.wire.packing import WORD_SIZE, pack, pack_literal, pack_word

_DRAWN_AT_ONCE = 32  # messages: a call to the system for each would cost as much as all the rest

_FIRST_HALF = struct.Struct("<II")  # segments - 1, words of the first
_SECOND_HALF = struct.Struct("<Q")  # words of the second


class Repadder:
    """Draws the padding.

    Args:
        random_bytes: the source of it.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes
        self._drawn = b""
        self._at = 0

    def write(self, content: Content) -> bytes:
        """Return the message with 0 to 255 bytes of padding."""
        size, padding = self._draw()
        words = 3 + (size + WORD_SIZE - 1) // WORD_SIZE + content.words
        return b"".join(
            (_table(words, content.second), packed_begin(size), pack_literal(padding), content.packed)
        )

    def _draw(self) -> tuple[int, bytes]:
        at = self._at
        if at == len(self._drawn):
            self._drawn = self._random_bytes(_DRAWN_AT_ONCE * (1 + MAX_PADDING_SENT))
            at = 0
        self._at = at + 1 + MAX_PADDING_SENT
        size = self._drawn[at]
        return size, self._drawn[at + 1 : at + 1 + size]


@functools.lru_cache(maxsize=512)
def _table(words: int, second: int) -> bytes:
    if not second:
        return pack_word(segment_table(words))
    # Its two words are packed apart: section 3.3 of docs/protocol.md.
    return pack(_FIRST_HALF.pack(1, words)) + pack(_SECOND_HALF.pack(second))
