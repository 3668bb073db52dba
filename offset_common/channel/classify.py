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

from typing import NamedTuple, Optional, Union

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.wire.messages import packed_begin
from offset_common.wire.packing import MAX_RUN, PACKED_SIZES, WORD_SIZE, max_unpacked_size

Packed = Union[bytes, bytearray]

MAX_PADDING_KEPT = 768  # bytes; more is not worth encrypting and sending again

_SMALL_BEGINS = tuple(packed_begin(size) for size in range(MAX_PADDING_KEPT + 1))
_MAX_SMALL = 3000  # packed bytes: one run of user data, and padding that is kept
_MAX_STEPS = 300  # to walk one object; a mebibyte of random bytes takes 120
_FULL_RUN = 1 + WORD_SIZE + 1 + (MAX_RUN - 1) * WORD_SIZE  # packed bytes of the longest run
_HEAD_WORDS = 7  # of user data: the words of a KaMessage before its payload, packed

# Halves of words, as the pointers in these messages have them.
_HALF = 0xFFFFFFFF
_BYTES = 2  # the low three bits of a list pointer's high half: a list of bytes
_NEXT = 1  # the low half of a pointer to a list that follows at once
_FAR = 2  # the low half of a far pointer to the first word of a segment
_CONTENT_SECTIONS = 1 << 16 | 1  # the high half of ->content: a data word and a pointer
_FAR_USER = bytes((1, 1, 0x11, _FAR, 1))  # packed: the union, `user`; ->user, in the second segment

_SHIFTS = tuple(tuple(8 * bit for bit in range(8) if tag >> bit & 1) for tag in range(256))


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
    """Only the slow path can tell what the message is."""


def classify(packed: Packed, size: int) -> Optional[Content]:
    """Return what to forward of a ChannelMessage with a `message` inside.

    Args:
        packed: the message, with anything behind it.
        size: bytes of the message.

    Returns: AS_IT_IS, or the content to write behind less padding; None if the slow path must decide.
    """
    try:
        if size <= _MAX_SMALL and _is_small_message(packed, size):
            return AS_IT_IS
        return _classify(packed, size)
    except (IndexError, _UnknownLayoutError):  # IndexError: cut short
        return None


def _is_small_message(p: Packed, size: int) -> bool:
    """Recognize nearly all messages there are: one segment, short padding, user data in one run."""
    if p[0] == 0x10:  # the segment table
        words, at = p[1], 2
    elif p[0] == 0x30:
        words, at = p[1] | p[2] << 8, 3
    else:
        return False
    # The root, ->randPadding and ->content are what our own encoder writes before so much padding.
    if p[at + 2] == 0x31:
        padding = p[at + 4] >> 3 | p[at + 5] << 5
    else:
        padding = p[at + 4] >> 3
    if padding > MAX_PADDING_KEPT or not p.startswith(_SMALL_BEGINS[padding], at):
        return False
    at += len(_SMALL_BEGINS[padding])
    left = (padding + 7) >> 3
    words -= 5 + left
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
    length = high >> 3
    if high & 7 != _BYTES or (length + 7) >> 3 != words or p[at] != 0xFF:
        return False
    more = p[at + 9]
    end = at + 10 + 8 * more
    user = p[at + 1 : at + 9] + p[at + 10 : end]
    if words != 1 + more:
        if more < _HEAD_WORDS:
            return False
        end = _skip(p, end, words - 1 - more)
    return end <= size and _is_message(user, length)


def _is_message(user: Packed, length: int) -> bool:
    """Recognize a KaMessage `message`, of which no more than the beginning may be here.

    Args:
        user: the beginning of user data.
        length: bytes of all user data.
    """
    if user[0] == 0x10:  # the segment table
        words, at = user[1], 2
    elif user[0] == 0x30:
        words, at = user[1] | user[2] << 8, 3
    else:
        sizes, at = _read_table(user)
        words = sizes[0]
        if len(sizes) > 1:
            return _is_far_message(user, length, sizes, at)
    # The root, a data word and a pointer; then the union: `message`.
    if not user.startswith(b"\x50\x01\x01\x01\x01", at):
        return False
    if user[at + 5] == 0x31 and user[at + 6] == _NEXT:
        high = user[at + 7] | user[at + 8] << 8
        at += 9
    else:
        low, high, at = _read_word(user, at + 5)
        if low != _NEXT:
            return False
    payload_words = (_length(high) + 7) >> 3
    return words == 3 + payload_words and _payload_fits(user, at, payload_words, length)


def _is_far_message(user: Packed, length: int, sizes: tuple[int, ...], at: int) -> bool:
    if sizes[0] != 3 or len(sizes) != 2 or not user.startswith(b"\x50\x01\x01\x01\x01\x11\x02\x01", at):
        return False
    payload, at = _land(user, at + 8, sizes[1])
    return _payload_fits(user, at, (payload + 7) >> 3, length)


def _payload_fits(user: Packed, at: int, words: int, length: int) -> bool:
    """Check the packed payload from `at` on as far as it is here."""
    if len(user) < length:
        return words * WORD_SIZE <= max_unpacked_size(length) - 5 * WORD_SIZE
    if words and user[at] == 0xFF and user[at + 9] == words - 1:
        return at + 2 + 8 * words <= length
    return _skip(user, at, words) <= length


def _classify(p: Packed, size: int) -> Optional[Content]:
    """Walk a ChannelMessage in any known layout; the same as `classify`."""
    sizes, at = _read_table(p)
    if sum(sizes) * WORD_SIZE > max_unpacked_size(size, data_fields=2):
        raise _UnknownLayoutError
    if p[at] != 0x40 or p[at + 1] != 2:  # the root: no data, two pointers
        raise _UnknownLayoutError
    far = 1  # the segment that comes next behind a far pointer
    low, high, at = _read_word(p, at + 2)  # ->randPadding
    offset, sections, at = _read_word(p, at)  # ->content
    near_padding = low == _NEXT + 4
    padding = padding_words = 0
    if near_padding:
        padding = _length(high)
        padding_words = (padding + 7) >> 3
        if offset != padding_words << 2:
            raise _UnknownLayoutError
        at = _skip(p, at, padding_words)
    else:
        if low != _FAR or high != far or offset:
            raise _UnknownLayoutError
        far += 1
    union = at
    if sections != _CONTENT_SECTIONS or p[at] != 1 or p[at + 1] != 1:  # the union: `user`
        raise _UnknownLayoutError
    low, high, at = _read_word(p, at + 2)  # ->user
    near_user = low == _NEXT
    words = 2  # behind the padding in the first segment
    length = user = 0
    if near_user:
        length = _length(high)
        words += (length + 7) >> 3
        user, at = at, _skip(p, at, (length + 7) >> 3)
    else:
        if low != _FAR or high != far:
            raise _UnknownLayoutError
        far += 1
    if sizes[0] != 3 + padding_words + words or len(sizes) != far:
        raise _UnknownLayoutError
    union_end = at
    if not near_padding:
        padding, at = _land(p, at, sizes[1])
        at = _skip(p, at, (padding + 7) >> 3)
    landing = at
    if not near_user:
        length, user = _land(p, at, sizes[-1])
        at = _skip(p, user, (length + 7) >> 3)
    if at > size or not _is_message(_first_bytes(p, user, length), length):
        return None
    if padding <= MAX_PADDING_KEPT:
        return AS_IT_IS
    if near_user:
        return Content(p[union:union_end], words, 0)
    return Content(_FAR_USER + p[landing:at], words, sizes[-1])


def _first_bytes(p: Packed, at: int, length: int) -> Packed:
    """Unpack the first run of user data, or its first words."""
    first = bytearray()
    whole = min(length, _HEAD_WORDS * WORD_SIZE)
    while len(first) < whole:
        tag = p[at]
        if tag == 0xFF:
            end = at + 10 + 8 * p[at + 9]
            first += p[at + 1 : at + 9]
            first += p[at + 10 : end]
            at = end
        else:
            low, high, at = _read_word(p, at)
            first += (low | high << 32).to_bytes(WORD_SIZE, "little")
    del first[length:]
    return first


def _read_table(p: Packed) -> tuple[tuple[int, ...], int]:
    """Return the words of each segment, and where the first one begins."""
    more, words, at = _read_word(p, 0)
    sizes: tuple[int, ...] = (words,)
    if more:
        if more > 2:
            raise _UnknownLayoutError
        second, third, at = _read_word(p, at)
        if more == 2:
            sizes = (words, second, third)
        elif third:
            raise _UnknownLayoutError
        else:
            sizes = (words, second)
    if sum(sizes) > MAX_FRAME_SIZE // WORD_SIZE:
        raise _UnknownLayoutError
    return sizes, at


def _read_word(p: Packed, at: int) -> tuple[int, int, int]:
    """Return both halves of the packed word at `at`, and where the next one begins."""
    tag = p[at]
    if tag == 0x31:
        return p[at + 1], p[at + 2] | p[at + 3] << 8, at + 4
    if tag == 0x51:
        return p[at + 1], p[at + 2] | p[at + 3] << 16, at + 4
    if tag == 0x71:
        return p[at + 1], p[at + 2] | p[at + 3] << 8 | p[at + 4] << 16, at + 5
    word = 0
    for shift in _SHIFTS[tag]:
        at += 1
        word |= p[at] << shift
    if tag == 0x00 or tag == 0xFF:
        at += 1
        if p[at]:
            raise _UnknownLayoutError  # a run over words of several kinds
    return word & _HALF, word >> 32, at + 1


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
            if words >= 2 * MAX_RUN:
                runs = _count_full_runs(p, at, words >> 8)
                at += runs * _FULL_RUN
                words -= runs << 8
                if not runs or (words and p[at] == 0xFF):
                    more = p[at + 9]
                    at += 10 + 8 * more
                    words -= 1 + more
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


def _count_full_runs(p: Packed, at: int, most: int) -> int:
    """Count the longest runs, one behind the other, from `at` on: at most `most`."""
    end = at + most * _FULL_RUN
    tags, counts = p[at:end:_FULL_RUN], p[at + 9 : end : _FULL_RUN]
    return min(len(tags) - len(tags.lstrip(b"\xff")), len(counts) - len(counts.lstrip(b"\xff")))
