"""Tells, before a message is taken apart, whether that would cost much more than its bytes pay for.

Packed bytes are unpacked run by run: words as they are, zero words, or a single word. A message of nodes
has a few runs for each kilobyte on both levels that the channel takes apart. One that is made to cost
has thousands of single words, or zeros that become a thousand times as much.
"""

from __future__ import annotations

from offset_common.channel.glance import find_user
from offset_common.errors import DecodeError
from offset_common.wire.messages import ChannelMessage, Rekey
from offset_common.wire.packing import PACKED_SIZES, WORD_SIZE

MOST_RUNS = 300  # of a message, and besides ...
BYTES_OF_A_RUN = 512  # ... one for so many packed bytes: the longest run has 2,050
MOST_ZEROS = 32 * 1024  # bytes that a message may unpack to besides twice what it has packed


def costs_little(plaintext: bytes) -> bool:
    """Say whether a ChannelMessage, and the KaMessage in it, are quickly taken apart, or quickly refused."""
    if not _has_few_runs(plaintext):
        return False
    user = find_user(plaintext)
    if user is None:
        try:
            content = ChannelMessage.decode(plaintext).content
        except DecodeError:
            return True
        if isinstance(content, Rekey):
            return True
        user = content
    return _has_few_runs(user)


def _has_few_runs(packed: bytes) -> bool:
    end = len(packed)
    at = words = 0
    for _ in range(MOST_RUNS + end // BYTES_OF_A_RUN):
        if at >= end:
            return words * WORD_SIZE <= 2 * end + MOST_ZEROS
        tag = packed[at]
        at += PACKED_SIZES[tag]
        words += 1
        if tag in (0x00, 0xFF):
            more = packed[at] if at < end else 0
            at += 1 + WORD_SIZE * more if tag else 1
            words += more
    return False
