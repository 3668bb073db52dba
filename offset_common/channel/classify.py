"""Decide from its packed bytes whether a decrypted message may be forwarded without unpacking it.

Nearly every frame of a tunnel carries a ChannelMessage with a KaMessage `message` inside, packed twice. The
ChannelMessage is walked completely, run by run. Of the KaMessage, the segment table, the root, the union
and ->message are read; its payload is walked too if the first run of the user data contains all of it. Faults
deeper inside are left to the node at the other end, because they affect only the nodes of that tunnel.

This is the fast counterpart of `ChannelMessage.decode` and `KaMessage.decode` (wire/messages.py); a test
checks that both give the same answers. It recognizes the order in which all known encoders write the objects.
Messages with any other layout take the slow path. An object that doesn't fit into the first segment is in a
segment of its own, behind a far pointer and a landing pad:

    ChannelMessage   root, ->randPadding, ->content, [padding], 1, ->user, [user]
                     then, in segments of their own: [pad, padding], [pad, user]
    KaMessage        root, 1, ->message, [message]
                     then, in a segment of its own: [pad, message]

Source: section 3 of docs/protocol.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional

from offset_common.channel.packed_words import (
    BYTES,
    NEXT,
    Packed,
    UnknownLayoutError,
    list_length,
    read_landing_pad,
    read_table,
    read_word,
    skip_words,
)
from offset_common.wire.capnp import data_pointer
from offset_common.wire.messages import packed_start
from offset_common.wire.packing import WORD_SIZE, max_unpacked_size, pack_word, unpack

MAX_PADDING_KEPT = 768  # bytes; longer padding is trimmed, because sending it costs more than trimming it

_OUTER_ALLOWANCE = max_unpacked_size(0, data_fields=2)
_INNER_ALLOWANCE = max_unpacked_size(0)
_MAX_ONE_RUN = 2600  # packed bytes; 255 words and some padding never take more
_HEAD_SIZE = 56  # bytes of user data that include all packed words of a KaMessage before its payload

# Packed words.
_STARTS = tuple(packed_start(size) for size in range(MAX_PADDING_KEPT + 1))
_FAR_PADDING = b"\x40\x02\x11\x02\x01\x50\x01\x01"  # the root, ->randPadding in the second segment, ->content
_NEAR_MESSAGE = b"\x50\x01\x01\x01\x01"  # the root of a KaMessage; the union, `message`
_FAR_MESSAGE = _NEAR_MESSAGE + b"\x11\x02\x01"  # and ->message, in the second segment
_USER = b"\x01\x01"  # the union of a ChannelContent, `user`

# A short message after its padding: the union and the low half of ->user; its high half; the tag of the run,
# its first word, its count; the two halves of ->message.
_SHORT = struct.Struct("<LHBQBBH")
_SHORT_START = int.from_bytes(_USER + b"\x31\x01", "little")
_SHORT_HEAD = int.from_bytes(b"\x10\0" + _NEAR_MESSAGE + b"\x31", "little")  # with any number of words
_SHORTEST_HEAD = int.from_bytes(b"\x10\0" + _NEAR_MESSAGE + b"\x11", "little")  # under 32 bytes of payload
_SHORT_RUN = 6  # bytes before the tag of the run
_SHORT_PAYLOAD = 13  # bytes from there to the tag of the payload's run

# Halves of words, as packed_words.py returns them.
_FAR = 2  # the low half of a far pointer to the first word of a segment
_CONTENT_SECTIONS = 1 << 16 | 1  # the high half of ->content: a data word and a pointer


class Content(NamedTuple):
    """Everything in a ChannelMessage after its padding: the union, ->user, and user data.

    Args:
        packed: the packed words.
        words: the number of unpacked words.
    """

    packed: Packed
    words: int


UNCHANGED = Content(b"", 0)
"""The padding is short, so the message is forwarded unchanged."""


def classify(packed: Packed, size: int) -> Optional[Content]:
    """Return how to forward a ChannelMessage with a `message` inside.

    Args:
        packed: the message, and any bytes after it.
        size: the size of the message, in bytes.

    Returns: UNCHANGED, or the content to write after shorter padding; None if the slow path must decide.
    """
    try:
        if size <= _MAX_ONE_RUN and _is_short_message(packed, size):
            return UNCHANGED
        padding, user, length, start, end = _walk(packed, size)
        if not _is_message(_first_bytes(packed, user, length), length):
            return None
    except (IndexError, struct.error, UnknownLayoutError):  # the first two: the message is cut short
        return None
    if padding <= MAX_PADDING_KEPT:
        return UNCHANGED
    content = packed[start:end]
    if start == user:  # it was behind a far pointer
        content = _USER + pack_word(data_pointer(0, length)) + content
    return Content(content, 2 + ((length + 7) >> 3))


def find_short_user(packed: bytes) -> Optional[bytes]:
    """Return the user data of a ChannelMessage if it is short, such as a keepAlive; otherwise None."""
    try:
        _, user, length, _, _ = _walk(packed, len(packed))
        first = _first_bytes(packed, user, length)
    except (IndexError, struct.error, UnknownLayoutError):
        return None
    return bytes(first) if len(first) == length else None


def _is_short_message(p: Packed, size: int) -> bool:
    """Recognize the most common layout: one segment each, short padding, and a payload in one run.

    Both messages have up to 255 words, and the payload has about 20 bytes or more. The user data may end in a
    shorter run, which then contains only the end of the payload.
    """
    if p[0] != 0x10:  # the segment table
        return False
    padding = p[6] >> 3 | (p[7] << 5 if p[4] == 0x31 else 0)
    if padding > MAX_PADDING_KEPT or not p.startswith(_STARTS[padding], 2):
        return False
    at = 2 + len(_STARTS[padding])
    left = (padding + 7) >> 3
    words = p[1] - 5 - left  # of user data
    if left and p[at] == 0xFF and p[at + 9] == left - 1:
        at += 2 + 8 * left
    else:
        at = skip_words(p, at, left)
    if at + _SHORT.size > size:
        return False
    start, of_user, tag, head, more, near, of_message = _SHORT.unpack_from(p, at)
    if start != _SHORT_START or tag != 0xFF or of_user & 7 != BYTES or (of_user + 56) >> 6 != words:
        return False
    at += _SHORT_RUN
    end = at + 10 + 8 * more
    if more != words - 1:
        end = skip_words(p, end, words - 1 - more)
    left = (head >> 8 & 0xFF) - 3
    run = _SHORT_PAYLOAD
    if head & ~0xFF00 == _SHORTEST_HEAD:
        of_message &= 0xFF
        run -= 1
    elif head & ~0xFF00 != _SHORT_HEAD:
        return False
    return (
        near == NEXT
        and of_message & 7 == BYTES
        and (of_message + 56) >> 6 == left
        and p[at + run] == 0xFF
        and p[at + run + 9] == left - 1
        and run + 8 * left <= of_user >> 3
        and end <= size
    )


def _walk(p: Packed, size: int) -> tuple[int, int, int, int, int]:
    """Walk a ChannelMessage with user data.

    Returns: the size of the padding; the position and unpacked size of the user data; the start and end of
    the part that ends with the user data. It starts with the union, unless the user data is far.
    """
    sizes, at = read_table(p)
    if sum(sizes) * WORD_SIZE > size + _OUTER_ALLOWANCE:
        raise UnknownLayoutError
    padding = p[at + 4] >> 3 | (p[at + 5] << 5 if p[at + 2] == 0x31 else 0)
    near_padding = True
    if padding <= MAX_PADDING_KEPT and p.startswith(_STARTS[padding], at):
        at += len(_STARTS[padding])
    elif p.startswith(_FAR_PADDING, at):
        near_padding, padding = False, 0
        at += len(_FAR_PADDING)
    else:
        padding, at = _read_start(p, at)
    # The first segment contains the padding, the union, ->user and user data, unless they are far.
    padding_words = (padding + 7) >> 3
    at = skip_words(p, at, padding_words)
    start = at
    length = user = end = 0
    if p[at] != 1 or p[at + 1] != 1:  # `user`
        raise UnknownLayoutError
    low, high, at = read_word(p, at + 2)  # ->user
    if low == NEXT:
        length, user = high >> 3, at
        words = (length + 7) >> 3
        if high & 7 != BYTES or sizes[0] != 5 + padding_words + words:
            raise UnknownLayoutError
        at = end = skip_words(p, at, words)
    elif low != _FAR or high != len(sizes) - 1 or sizes[0] != 5 + padding_words:
        raise UnknownLayoutError
    far = 1
    if not near_padding:
        padding, at = read_landing_pad(p, at, sizes[1])
        at = skip_words(p, at, (padding + 7) >> 3)
        far = 2
    if low == _FAR:
        length, user = read_landing_pad(p, at, sizes[far])
        start = user
        at = end = skip_words(p, user, (length + 7) >> 3)
        far += 1
    if at > size or far != len(sizes):
        raise UnknownLayoutError
    return padding, user, length, start, end


def _read_start(p: Packed, at: int) -> tuple[int, int]:
    """Read the root, ->randPadding and ->content; return the size of the padding, and its position."""
    if p[at] != 0x40 or p[at + 1] != 2:  # the root: no data, two pointers
        raise UnknownLayoutError
    low, high, at = read_word(p, at + 2)  # ->randPadding
    offset, sections, at = read_word(p, at)  # ->content
    padding = list_length(high)
    if low != NEXT + 4 or sections != _CONTENT_SECTIONS or offset != (padding + 7) >> 3 << 2:
        raise UnknownLayoutError
    return padding, at


def _first_bytes(p: Packed, at: int, length: int) -> Packed:
    """Unpack user data that is tiny or a single run; otherwise unpack only its first words."""
    if length <= _HEAD_SIZE:
        return unpack(bytes(p[at : at + 2 * _HEAD_SIZE]), 0, length + 7 & ~7)[0][:length]
    run = 2 + WORD_SIZE + WORD_SIZE * p[at + 9]  # packed bytes
    if p[at] != 0xFF or run < 2 + _HEAD_SIZE:
        raise UnknownLayoutError
    end = at + 2 + length if run >= 2 + length else at + 2 + _HEAD_SIZE
    return p[at + 1 : at + 9] + p[at + 10 : end]


def _is_message(user: Packed, length: int) -> bool:
    """Return whether user data is a KaMessage `message`.

    Args:
        user: the start of the user data, or all of it.
        length: bytes of the whole user data.
    """
    sizes, at = read_table(user)
    if len(sizes) == 1:
        if not user.startswith(_NEAR_MESSAGE, at):
            return False
        low, high, at = read_word(user, at + len(_NEAR_MESSAGE))  # ->message
        words = (high + 56) >> 6
        if low != NEXT or high & 7 != BYTES or sizes[0] != 3 + words:
            return False
    elif sizes[0] == 3 and len(sizes) == 2 and user.startswith(_FAR_MESSAGE, at):
        payload, at = read_landing_pad(user, at + len(_FAR_MESSAGE), sizes[1])
        words = (payload + 7) >> 3
    else:
        return False
    if (words + 5) * WORD_SIZE > length + _INNER_ALLOWANCE:
        return False
    return len(user) < length or skip_words(user, at, words) <= length
