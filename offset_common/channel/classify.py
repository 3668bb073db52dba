"""Decide from the packed bytes of a decrypted message whether the relay may forward them as they are.

Nearly all that a relay forwards is a ChannelMessage with a KaMessage `message` inside, packed twice. The
ChannelMessage is walked completely, run by run. Of the KaMessage the segment table, the root, the union
and ->message are read; its payload is walked as well if the first run of the user data holds all of it.
A fault further inside is left to the node at the other end: it affects only the nodes of that tunnel.

This is the fast twin of `ChannelMessage.decode` and `KaMessage.decode` (wire/messages.py), and a test holds
that both give the same answers. It knows the order in which all known encoders write the objects; any other
layout is unknown, and takes the slow path. An object that doesn't fit the first segment comes in a segment
of its own, behind a far pointer and a landing pad:

    ChannelMessage   root, ->randPadding, ->content, [padding], 1, ->user, [user]
                     then, in segments of their own: [pad, padding], [pad, user]
    KaMessage        root, 1, ->message, [message]
                     then, in a segment of its own: [pad, message]

Source: section 3 of docs/protocol.md.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Optional, Union

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.wire.messages import packed_begin
from offset_common.wire.packing import (
    MAX_RUN,
    PACKED_SIZES,
    WORD_SIZE,
    max_unpacked_size,
    unpack,
    unpack_word,
)

Packed = Union[bytes, bytearray]

MAX_PADDING_KEPT = 768  # bytes; more is not worth encrypting and sending again

_MAX_WORDS = MAX_FRAME_SIZE // WORD_SIZE
_OUTER_ALLOWANCE = max_unpacked_size(0, data_fields=2)
_INNER_ALLOWANCE = max_unpacked_size(0)
_MAX_SHORT = 3000  # packed bytes: one run of user data, and padding that is kept
_MAX_STEPS = 300  # to walk one object; a mebibyte of random bytes takes 120
_FULL_RUN = 1 + WORD_SIZE + 1 + (MAX_RUN - 1) * WORD_SIZE  # packed bytes of the longest run
_HEAD_SIZE = 56  # bytes of user data: the words of a KaMessage before its payload, packed

# Packed words, by what is the same in all messages.
_BEGINS = tuple(packed_begin(size) for size in range(MAX_PADDING_KEPT + 1))
_NEAR_MESSAGE = b"\x50\x01\x01\x01\x01"  # the root of a KaMessage; the union, `message`
_FAR_MESSAGE = _NEAR_MESSAGE + b"\x11\x02\x01"  # and ->message, in the second segment
_FAR_USER = b"\x01\x01\x11\x02\x01"  # the union, `user`; ->user, in the second segment

# Halves of words, as the pointers in these messages have them.
_HALVES = struct.Struct("<II")
_BYTES = 2  # the low three bits of a list pointer's high half: a list of bytes
_NEXT = 1  # the low half of a pointer to a list that follows at once
_FAR = 2  # the low half of a far pointer to the first word of a segment
_CONTENT_SECTIONS = 1 << 16 | 1  # the high half of ->content: a data word and a pointer


class Content(NamedTuple):
    """All of a ChannelMessage behind its padding, still packed: the union, ->user, and user data.

    Args:
        packed: the words.
        words: how many of them are in the first segment.
        second: how many words a second segment has, with user data alone; or 0.
    """

    packed: Packed
    words: int
    second: int


AS_IT_IS = Content(b"", 0, 0)
"""Instead of what to write behind less padding: the padding is short."""


class _UnknownLayoutError(Exception):
    """Only the slow path can decide what the message is."""


def classify(packed: Packed, size: int) -> Optional[Content]:
    """Return what to forward of a ChannelMessage with a `message` inside.

    Args:
        packed: the message, with anything behind it.
        size: bytes of the message.

    Returns: AS_IT_IS, or the content to write behind less padding; None if the slow path must decide.
    """
    try:
        if size <= _MAX_SHORT and _is_short_message(packed, size):
            return AS_IT_IS
        sizes, at = _read_table(packed)
        if sum(sizes) * WORD_SIZE <= size + _OUTER_ALLOWANCE:
            return _classify(packed, size, sizes, at)
    except (IndexError, struct.error, _UnknownLayoutError):  # cut short, the first two
        pass
    return None


def _is_short_message(p: Packed, size: int) -> bool:
    """Recognize most messages: single segments, short padding, and a payload in one run inside another.

    The user data may end in a shorter run, which then has only the end of the payload.
    """
    if p[0] == 0x30:  # the segment table
        words, at = p[1] | p[2] << 8, 3
    elif p[0] == 0x10:
        words, at = p[1], 2
    else:
        return False
    padding = p[at + 4] >> 3 | (p[at + 5] << 5 if p[at + 2] == 0x31 else 0)
    if padding > MAX_PADDING_KEPT or not p.startswith(_BEGINS[padding], at):
        return False
    at += len(_BEGINS[padding])
    left = (padding + 7) >> 3
    words -= 5 + left  # of user data
    if left and p[at] == 0xFF and p[at + 9] == left - 1:
        at += 2 + 8 * left
    else:
        at = _skip(p, at, left)
    if p[at] != 1 or p[at + 1] != 1 or p[at + 3] != _NEXT:  # `user`, and ->user
        return False
    if p[at + 2] == 0x31:
        high = p[at + 4] | p[at + 5] << 8
        at += 6
    elif p[at + 2] == 0x11:
        high = p[at + 4]
        at += 5
    else:
        return False
    more = p[at + 9]
    end = at + 10 + 8 * more
    if p[at] != 0xFF or more < 2 or high & 7 != _BYTES or (high + 56) >> 6 != words:
        return False
    if more != words - 1:
        end = _skip(p, end, words - 1 - more)
    # The KaMessage: its first eight bytes stand before the count of the run, all others behind it.
    if p[at + 1] == 0x30:  # its segment table
        left = (p[at + 2] | p[at + 3] << 8) - 3
        message, tag = at + 4, at + 10
        low = at + 11
    else:
        left = p[at + 2] - 3
        message, tag = at + 3, at + 8
        low = at + 10
    if p[tag] == 0x31:
        of_message = p[low + 1] | p[low + 2] << 8
        run = low + 3
    else:
        of_message = p[low + 1]
        run = low + 2
    return (
        p[at + 1] | 0x20 == 0x30
        and p.startswith(_NEAR_MESSAGE, message)
        and p[tag] | 0x20 == 0x31
        and p[low] == _NEXT
        and of_message & 7 == _BYTES
        and (of_message + 56) >> 6 == left
        and p[run] == 0xFF
        and p[run + 9] == left - 1
        and run - at + 8 * left <= high >> 3
        and end <= size
    )


def _classify(p: Packed, size: int, sizes: tuple[int, ...], at: int) -> Optional[Content]:
    padding = p[at + 4] >> 3 | (p[at + 5] << 5 if p[at + 2] == 0x31 else 0)
    if padding <= MAX_PADDING_KEPT and p.startswith(_BEGINS[padding], at):
        near_padding = True
        at += len(_BEGINS[padding])
    else:
        near_padding, padding, at = _read_begin(p, at)
    # The first segment has the padding, the union, ->user and user data, unless one of them is far.
    padding_words = (padding + 7) >> 3
    at = _skip(p, at, padding_words)
    union = at
    if p[at] != 1 or p[at + 1] != 1:  # `user`
        return None
    low, high, at = _read_word(p, at + 2)  # ->user
    if low == _NEXT:
        length, user = high >> 3, at
        words = (length + 7) >> 3
        if high & 7 != _BYTES or sizes[0] != 5 + padding_words + words:
            return None
        at = _skip(p, at, words)
    elif low != _FAR or high != len(sizes) - 1 or sizes[0] != 5 + padding_words:
        return None
    union_end = at
    far = 1
    if not near_padding:
        padding, at = _land(p, at, sizes[1])
        at = _skip(p, at, (padding + 7) >> 3)
        far = 2
    landing = at
    if low == _FAR:
        length, user = _land(p, at, sizes[far])
        at = _skip(p, user, (length + 7) >> 3)
        far += 1
    if at > size or far != len(sizes) or not _is_message(_first_bytes(p, user, length), length):
        return None
    if padding <= MAX_PADDING_KEPT:
        return AS_IT_IS
    if low == _NEXT:
        return Content(p[union:union_end], 2 + words, 0)
    return Content(_FAR_USER + p[landing:at], 2, sizes[-1])


def _read_begin(p: Packed, at: int) -> tuple[bool, int, int]:
    """Read the root, ->randPadding and ->content.

    Returns: whether the padding follows; its size, if it does; and where the next word begins.
    """
    if p[at] != 0x40 or p[at + 1] != 2:  # the root: no data, two pointers
        raise _UnknownLayoutError
    low, high, at = _read_word(p, at + 2)  # ->randPadding
    offset, sections, at = _read_word(p, at)  # ->content
    near = low == _NEXT + 4
    padding = 0
    if near:
        padding = _length(high)
    elif low != _FAR or high != 1:
        raise _UnknownLayoutError
    if sections != _CONTENT_SECTIONS or offset != (padding + 7) >> 3 << 2:
        raise _UnknownLayoutError
    return near, padding, at


def _first_bytes(p: Packed, at: int, length: int) -> Packed:
    """Unpack user data if it is a single run or tiny, and only its first words if not."""
    if length <= _HEAD_SIZE:
        return unpack(bytes(p[at : at + 2 * _HEAD_SIZE]), 0, length + 7 & ~7)[0][:length]
    run = 2 + WORD_SIZE + WORD_SIZE * p[at + 9]  # packed bytes
    if p[at] != 0xFF or run < 2 + _HEAD_SIZE:
        raise _UnknownLayoutError
    end = at + 2 + length if run >= 2 + length else at + 2 + _HEAD_SIZE
    return p[at + 1 : at + 9] + p[at + 10 : end]


def _is_message(user: Packed, length: int) -> bool:
    """Recognize a KaMessage `message`, of which no more than the beginning may be here.

    Args:
        user: the beginning of user data.
        length: bytes of all user data.
    """
    sizes, at = _read_table(user)
    if len(sizes) == 1:
        if not user.startswith(_NEAR_MESSAGE, at):
            return False
        low, high, at = _read_word(user, at + len(_NEAR_MESSAGE))  # ->message
        words = (high + 56) >> 6
        if low != _NEXT or high & 7 != _BYTES or sizes[0] != 3 + words:
            return False
    elif sizes[0] == 3 and len(sizes) == 2 and user.startswith(_FAR_MESSAGE, at):
        payload, at = _land(user, at + len(_FAR_MESSAGE), sizes[1])
        words = (payload + 7) >> 3
    else:
        return False
    if len(user) < length:
        return (words + 5) * WORD_SIZE <= length + _INNER_ALLOWANCE
    return _skip(user, at, words) <= length


def _read_table(p: Packed) -> tuple[tuple[int, ...], int]:
    """Return the words of each segment, and where the first one begins."""
    if p[0] == 0x30:
        return (p[1] | p[2] << 8,), 3
    if p[0] == 0x10:
        return (p[1],), 2
    more, words, at = _read_word(p, 0)
    sizes: tuple[int, ...] = (words,)
    if more:
        second, third, at = _read_word(p, at)
        if more == 2:
            sizes = (words, second, third)
        elif more == 1 and not third:
            sizes = (words, second)
        else:
            raise _UnknownLayoutError
    if sum(sizes) > _MAX_WORDS:
        raise _UnknownLayoutError
    return sizes, at


def _read_word(p: Packed, at: int) -> tuple[int, int, int]:
    """Return both halves of the packed word at `at`, and where the next one begins."""
    tag = p[at]
    if tag == 0x31:
        return p[at + 1], p[at + 2] | p[at + 3] << 8, at + 4
    if tag == 0x11:
        return p[at + 1], p[at + 2], at + 3
    if tag == 0x71:
        return p[at + 1], p[at + 2] | p[at + 3] << 8 | p[at + 4] << 16, at + 5
    if tag == 0x03:
        return p[at + 1] | p[at + 2] << 8, 0, at + 3
    low, high = _HALVES.unpack(unpack_word(p, at))
    at += PACKED_SIZES[tag]
    if tag == 0x00 or tag == 0xFF:
        if p[at]:
            raise _UnknownLayoutError  # a run over words of several kinds
        at += 1
    return low, high, at


def _length(high: int) -> int:
    """Return the bytes of a list, from its pointer's high half."""
    if high & 7 != _BYTES:
        raise _UnknownLayoutError
    return high >> 3


def _land(p: Packed, at: int, words: int) -> tuple[int, int]:
    """Read the landing pad of a segment of `words` words; return the list's bytes and where it begins."""
    low, high, at = _read_word(p, at)
    length = _length(high)
    if low != _NEXT or words != 1 + ((length + 7) >> 3):
        raise _UnknownLayoutError
    return length, at


def _skip(p: Packed, at: int, words: int) -> int:
    """Return where `words` packed words end."""
    for _ in range(_MAX_STEPS):
        if words <= 0:
            break
        tag = p[at]
        if tag == 0xFF:
            if words >= 2 * MAX_RUN and p[at + 9] == 0xFF:
                # Count the longest runs, one behind the other, by all their tags and all their counts.
                end = at + (words >> 8) * _FULL_RUN
                tags, counts = p[at:end:_FULL_RUN], p[at + 9 : end : _FULL_RUN]
                runs = len(tags) - max(len(tags.lstrip(b"\xff")), len(counts.lstrip(b"\xff")))
                at += runs * _FULL_RUN
                words -= runs << 8
            else:
                more = p[at + 9]
                at += 10 + 8 * more
                words -= 1 + more
        elif tag:
            at += PACKED_SIZES[tag]
            words -= 1
        else:
            words -= 1 + p[at + 1]
            at += 2
    if words:
        raise _UnknownLayoutError  # a run that goes on into another object, or too many steps
    return at
