"""Tells a well-formed message from its packed bytes, without taking them apart.

Nearly all that a relay forwards is a ChannelMessage with a KaMessage `message` inside, packed twice.
Where that is well formed it can be sealed again as it is, or with less padding. This is the fast
twin of `ChannelMessage.decode` and `KaMessage.decode` (wire/messages.py): what it finds is what those
find. About a layout that it does not know it says None, and the caller takes the plain way.

It knows the order in which every known encoder puts the objects, each in one piece. What does
not fit the first segment comes in one of its own, behind a far pointer and a landing pad:

    ChannelMessage   root, ->randPadding, ->content, [padding], 1, ->user, [user]
                     then, in segments of their own: [pad, padding], [pad, user]
    KaMessage        root, 1, ->message, [message]
                     then, in a segment of its own: [pad, message]

Source: section 3 of docs/protocol.md.
"""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Union

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.wire.packing import PACKED_SIZES

Packed = Union[bytes, bytearray]

# A packed word is a tag, whose bit i says whether byte i follows. After 0x00 and 0xff a count follows,
# of further zero words or of further words as they are.
_SHIFTS = tuple(tuple(8 * bit for bit in range(8) if tag >> bit & 1) for tag in range(256))
_GAPS = tuple(tuple(bit for bit in range(8) if not tag >> bit & 1) for tag in range(256))

_FULL_RUN = 1 + 8 + 1 + 255 * 8  # packed bytes of the longest run of words as they are
_MOST_OF_SMALL = 3000  # packed bytes: a run of the user's, and less than 512 bytes of padding
_match_full_runs = re.compile(rb"(?:\xff.{8}\xff.{2040})+", re.DOTALL).match
_WORTH_COUNTING = 512  # words; less is walked over run by run
# A mebibyte of random bytes takes 120; words without runs by the thousand go the plain way.
_STEPS = range(300)
_MAX_WORDS = MAX_FRAME_SIZE // 8
_MOST_ZEROS = 4  # bytes of the packed KaMessage, for each byte of the packed ChannelMessage
_HALF = 0xFFFFFFFF
_BYTES = 2  # the low three bits of a list pointer's high half: a list of bytes
_NEXT = 1  # the low half of a pointer to a list that follows at once
_FAR = 2  # the low half of a far pointer to the first word of a segment
_FAR_USER = bytes((1, 1, 0x11, _FAR, 1))  # packed: the union, `user`; ->user, in the second segment
_CONTENT_SIZES = 1 << 16 | 1  # the high half of ->content: a data word and a pointer


class _UnknownLayoutError(Exception):
    """The plain way must tell."""


UNKNOWN = -1
"""Instead of the bytes of padding: only the plain way can tell what the message is."""


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


def find_message(packed: Packed, size: int, most_padding: int) -> tuple[int, Optional[Content]]:
    """Look at the first `size` bytes: are they surely a ChannelMessage with a `message` inside?

    Returns: how many bytes of random padding it has, or UNKNOWN; and, where those are more than
    `most_padding`, what can be written behind less of it.
    """
    if size <= _MOST_OF_SMALL:
        try:
            padding = _padding_of_small_message(packed, size)
            if 0 <= padding <= most_padding:
                return padding, None
        except (IndexError, _UnknownLayoutError):
            pass
    try:
        user, padding, end, content = _find_parts(packed, size, most_padding)
        # A KaMessage that is zeros mostly, packed twice, costs more to look at than its frame has paid for.
        if end <= size and len(user) <= _MOST_ZEROS * size and _message_end(user) <= len(user):
            return padding, content
    except (IndexError, _UnknownLayoutError):
        pass  # cut short, among others: the plain way will say so
    return UNKNOWN, None


def find_user(packed: Packed) -> Optional[bytes]:
    """Return the user's bytes of a ChannelMessage, or None where only the plain way can tell."""
    try:
        user, _, end, _ = _find_parts(packed, len(packed), MAX_FRAME_SIZE)
    except (IndexError, _UnknownLayoutError):
        return None
    return bytes(user) if end <= len(packed) else None


def _padding_of_small_message(p: Packed, size: int) -> int:
    """Do the same for nearly all messages there are: one segment, small sizes, the user's bytes in one run.

    What of the user's bytes is behind that run is the end of the payload, which nobody needs to see.
    """
    tag = p[0]  # the segment table
    if tag == 0x10:
        words, at = p[1], 2
    elif tag == 0x30:
        words, at = p[1] | p[2] << 8, 3
    else:
        return UNKNOWN
    tag = p[at + 2]  # the root, ->randPadding
    if p[at] != 0x40 or p[at + 1] != 2 or p[at + 3] != _NEXT + 4:
        return UNKNOWN
    if tag == 0x31:
        high = p[at + 4] | p[at + 5] << 8
        at += 6
    elif tag == 0x11:
        high = p[at + 4]
        at += 5
    else:
        return UNKNOWN
    padding = high >> 3
    left = (padding + 7) >> 3
    # ->content
    if high & 7 != _BYTES or p[at] != 0x51 or p[at + 1] != left << 2 or p[at + 2] != 1 or p[at + 3] != 1:
        return UNKNOWN
    words -= 5 + left
    at += 4
    if left and p[at] == 0xFF and p[at + 9] == left - 1:
        at += 2 + 8 * left
    else:
        at = _skip(p, at, left)
    if p[at] != 1 or p[at + 1] != 1 or p[at + 3] != _NEXT:  # `user`, and ->user
        return UNKNOWN
    tag = p[at + 2]
    if tag == 0x31:
        high = p[at + 4] | p[at + 5] << 8
        at += 6
    elif tag == 0x11:
        high = p[at + 4]
        at += 5
    else:
        return UNKNOWN
    length = high >> 3
    if high & 7 != _BYTES or (length + 7) >> 3 != words or p[at] != 0xFF:
        return UNKNOWN
    run_end = at + 10 + 8 * p[at + 9]
    user = p[at + 1 : at + 9] + p[at + 10 : run_end]
    words -= 1 + p[at + 9]
    if words:
        run_end = _skip(p, run_end, words)
    if run_end > size:
        return UNKNOWN
    # The KaMessage: table, root and union, ->message.
    tag = user[0]
    if tag == 0x10:
        words, at = user[1], 2
    elif tag == 0x30:
        words, at = user[1] | user[2] << 8, 3
    else:
        return UNKNOWN
    if user[at : at + 5] != b"\x50\x01\x01\x01\x01" or user[at + 6] != _NEXT:
        return UNKNOWN
    tag = user[at + 5]
    if tag == 0x31:
        high = user[at + 7] | user[at + 8] << 8
        at += 9
    elif tag == 0x11:
        high = user[at + 7]
        at += 8
    else:
        return UNKNOWN
    left = (high + 56) >> 6  # words
    if high & 7 != _BYTES or words != 3 + left:
        return UNKNOWN
    if left and user[at] == 0xFF and user[at + 9] == left - 1:
        at += 2 + 8 * left
    else:
        at = _skip(user, at, left)
    return padding if at <= length else UNKNOWN


def _find_parts(p: Packed, size: int, most_padding: int) -> tuple[Packed, int, int, Optional[Content]]:
    """Find the packed KaMessage, the bytes of padding, where the message ends, and the rest to be kept."""
    sizes, at = _read_table(p)
    if sum(sizes) > size:
        # Zeros, mostly, or not all there: what is behind `size` is not to be searched for the rest.
        p = p[:size]
    if p[at] != 0x40 or p[at + 1] != 2:  # the root: no data, two pointers
        raise _UnknownLayoutError
    words = 2  # behind the padding in the first segment
    far = 1  # the segment that comes next behind a far pointer
    low, high, at = _read_word(p, at + 2)  # ->randPadding
    offset, content_sizes, at = _read_word(p, at)  # ->content
    near_padding = low == _NEXT + 4
    if near_padding:
        padding = _length(high)
        padding_words = (padding + 7) >> 3
        if offset != padding_words << 2 or 5 + padding_words > sizes[0]:
            raise _UnknownLayoutError
        at = _skip(p, at, padding_words)
    else:
        padding = padding_words = 0
        if low != _FAR or high != far or offset:
            raise _UnknownLayoutError
        far += 1
    union = at
    if content_sizes != _CONTENT_SIZES or p[at] != 1 or p[at + 1] != 1:  # the union: `user`
        raise _UnknownLayoutError
    low, high, at = _read_word(p, at + 2)  # ->user
    near_user = low == _NEXT
    if near_user:
        length = _length(high)
        words += (length + 7) >> 3
    elif low != _FAR or high != far:
        raise _UnknownLayoutError
    else:
        far += 1
    if sizes[0] != 3 + padding_words + words or len(sizes) != far:
        raise _UnknownLayoutError
    user: Packed = b""
    if near_user:
        user, at = _gather(p, at, length)
    union_end = at
    if not near_padding:
        padding, at = _land(p, at, sizes[1])
        at = _skip(p, at, (padding + 7) >> 3)
    landing = at
    if not near_user:
        length, at = _land(p, at, sizes[-1])
        user, at = _gather(p, at, length)
    content = None
    if padding <= most_padding:
        pass
    elif near_user:
        content = Content(p[union:union_end], words, 0)
    else:
        content = Content(_FAR_USER + p[landing:at], words, sizes[-1])
    return user, padding, at, content


def _message_end(p: Packed) -> int:
    """Return where a packed KaMessage `message` ends."""
    sizes, at = _read_table(p)
    # The root, a data word and a pointer; then the union: `message`.
    if p[at] != 0x50 or p[at + 1] != 1 or p[at + 2] != 1 or p[at + 3] != 1 or p[at + 4] != 1:
        raise _UnknownLayoutError
    low, high, at = _read_word(p, at + 5)  # ->message
    if low == _NEXT:
        words = (_length(high) + 7) >> 3
        if sizes[0] != 3 + words or len(sizes) != 1:
            raise _UnknownLayoutError
        return _skip(p, at, words)
    if low != _FAR or high != 1 or sizes[0] != 3 or len(sizes) != 2:
        raise _UnknownLayoutError
    length, at = _land(p, at, sizes[1])
    return _skip(p, at, (length + 7) >> 3)


def _read_table(p: Packed) -> tuple[tuple[int, ...], int]:
    """Return the words of each segment, and where the first one begins."""
    more, words, at = _read_word(p, 0)
    if not more and words <= _MAX_WORDS:
        return (words,), at
    if more > 2:
        raise _UnknownLayoutError
    second, third, at = _read_word(p, at)
    if words + second + third > _MAX_WORDS or (more == 1 and third):
        raise _UnknownLayoutError
    return ((words, second) if more == 1 else (words, second, third)), at


def _read_word(p: Packed, at: int) -> tuple[int, int, int]:
    """Return both halves of the packed word at `at`, and where the next one begins."""
    tag = p[at]
    if tag == 0x11:
        return p[at + 1], p[at + 2], at + 3
    if tag == 0x31:
        return p[at + 1], p[at + 2] | p[at + 3] << 8, at + 4
    if tag == 0x51:
        return p[at + 1], p[at + 2] | p[at + 3] << 16, at + 4
    if tag == 0x10:
        return 0, p[at + 1], at + 2
    if tag == 0x50:
        return 0, p[at + 1] | p[at + 2] << 16, at + 3
    if tag == 0x71:
        return p[at + 1], p[at + 2] | p[at + 3] << 8 | p[at + 4] << 16, at + 5
    if tag == 0x03:
        return p[at + 1] | p[at + 2] << 8, 0, at + 3
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
    """Return the bytes of a list that a pointer's high half tells of."""
    if high & 7 != _BYTES:
        raise _UnknownLayoutError
    return high >> 3


def _land(p: Packed, at: int, words: int) -> tuple[int, int]:
    """Read the landing pad of a segment of so many words; return the list's bytes and where it begins."""
    low, high, at = _read_word(p, at)
    length = _length(high)
    if low != _NEXT or words != 1 + ((length + 7) >> 3):
        raise _UnknownLayoutError
    return length, at


def _skip(p: Packed, at: int, words: int) -> int:
    """Return where the packed bytes go on after so many words."""
    for _ in _STEPS:
        if words <= 0:
            break
        tag = p[at]
        if tag == 0xFF:
            runs = _full_runs(p, at, words)
            at += runs * _FULL_RUN
            words -= runs << 8
            if words and p[at] == 0xFF:  # a shorter run
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


def _full_runs(p: Packed, at: int, words: int) -> int:
    """Count the longest runs, one behind the other, with which `words` words begin."""
    if words < _WORTH_COUNTING:
        return 0
    match = _match_full_runs(p, at, at + (words >> 8) * _FULL_RUN)
    return (match.end() - at) // _FULL_RUN if match else 0


def _gather(p: Packed, at: int, size: int) -> tuple[Packed, int]:
    """Return `size` bytes, unpacked, and where the packed bytes go on after their last word."""
    whole = size + 7 & ~7
    view = memoryview(p)
    user = bytearray()
    fill = 0
    for _ in _STEPS:
        if fill >= whole:
            break
        tag = p[at]
        if tag == 0xFF:
            runs = _full_runs(p, at, whole - fill >> 3)
            end = at + runs * _FULL_RUN
            if fill + (runs << 11) < whole and p[end] == 0xFF:  # a shorter run
                end += 10 + 8 * p[end + 9]
            user += view[at:end]
            del user[fill::_FULL_RUN]  # the tags
            del user[fill + 8 :: _FULL_RUN - 1]  # the counts
            at = end
        elif tag:
            end = at + PACKED_SIZES[tag]
            user += view[at + 1 : end]
            for gap in _GAPS[tag]:
                user.insert(fill + gap, 0)
            at = end
        else:
            user += bytes(8 + 8 * p[at + 1])
            at += 2
        fill = len(user)
    if fill != whole:
        raise _UnknownLayoutError
    del user[size:]
    return user, at
