"""Encoders for the layouts that `classify` recognizes, for other layouts, and for invalid messages."""

from __future__ import annotations

import random
from typing import Callable

from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.messages import ChannelMessage, KaMessage
from offset_common.wire.packing import pack, pack_literal
from tests.wire import layout, oracle

FIRST_SEGMENT_WORDS = 1024  # of the released nodes' message builder


def as_released(payload: bytes, padding: bytes) -> bytes:
    """Encode as released nodes do."""
    inner = oracle.schema.KaMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    inner.message = payload
    return as_released_user(inner.to_bytes_packed(), padding)


def as_released_user(user: bytes, padding: bytes) -> bytes:
    """Encode any bytes of the layer above as released nodes do."""
    outer = oracle.schema.ChannelMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    outer.randPadding = padding
    outer.init("content").user = user
    packed: bytes = outer.to_bytes_packed()
    return packed


def as_own(payload: bytes, padding: bytes) -> bytes:
    """Encode as this project does."""
    return ChannelMessage(padding, KaMessage(payload).encode()).encode()


def as_unknown(payload: bytes, padding: bytes) -> bytes:
    """Encode in a layout that no known encoder uses: each object in a separate segment."""
    inner = oracle.packed(KaMessage(payload), slack=())
    return oracle.packed(ChannelMessage(padding, inner), slack=())


ENCODERS = [as_released, as_own]


def mixed(size: int) -> bytes:
    chance = random.Random(size)
    return bytes(chance.choice((0, 0, 0, 1, 255)) for _ in range(size))


FILLINGS: dict[str, Callable[[int], bytes]] = {
    "random": lambda size: random.Random(size).randbytes(size),
    "zeros": bytes,
    "ones": lambda size: b"\xff" * size,
    "one zero a word": lambda size: (b"\x01\x02\x03\x00\x05\x06\x07\x08" * (size // 8 + 1))[:size],
    "two zeros a word": lambda size: (b"\x01\x02\x00\x04\x05\x00\x07\x08" * (size // 8 + 1))[:size],
    "zeros mostly": mixed,
}


def zero_words(count: int) -> bytes:
    """Pack `count` zero words."""
    return b"\x00\xff" * (count // 256) + (bytes((0, count % 256 - 1)) if count % 256 else b"")


def ka_message(words: int, packed: bytes) -> bytes:
    """Pack a KaMessage around the packed words of its message."""
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    return pack(segment_table(3 + words)) + pack(head) + packed


def channel_message(padding: bytes, user: bytes) -> bytes:
    """Pack a ChannelMessage in one segment, zeros packed away in padding and user data."""
    packed_padding, packed_user = (pack(whole_words(each)) for each in (padding, user))
    return layout.channel_message(packed_user, len(user), packed_padding, len(padding))


# Messages built word by word, some with wrong numbers in their structure, packed in unusual ways.


def pack_freely(words: bytes, chance: random.Random) -> bytes:
    """Pack words in unusual ways: needless zero bytes, short runs, runs across objects."""
    style = chance.random()
    if style < 0.35:
        return pack(words)
    if style < 0.45:
        return pack_literal(words)
    packed = bytearray()
    at = 0
    while at < len(words):
        word = words[at : at + 8]
        at += 8
        tag = sum((word[bit] != 0 or chance.random() < 0.1) << bit for bit in range(8))
        if chance.random() < 0.1:
            tag = 0xFF
        packed.append(tag)
        packed += bytes(word[bit] for bit in range(8) if tag >> bit & 1)
        if tag == 0:
            run = 0
            while run < 255 and words[at : at + 8] == bytes(8) and chance.random() < 0.9:
                run += 1
                at += 8
            packed.append(run)
        elif tag == 0xFF:
            run = min(chance.choice((0, 0, 1, 3, 255)), (len(words) - at) // 8)
            packed.append(run)
            packed += words[at : at + 8 * run]
            at += 8 * run
    return bytes(packed)


class Distorter:
    """Builds messages in which some numbers are wrong.

    Args:
        chance: the source of randomness.
        error_rate: the probability that a number is wrong.
    """

    def __init__(self, chance: random.Random, error_rate: float) -> None:
        self.chance = chance
        self._error_rate = error_rate

    def number(self, right: int, bits: int = 32) -> int:
        if self.chance.random() >= self._error_rate:
            return right
        wrong = self.chance.choice((right + 1, right - 1, 0, 1, 2, right ^ 4, 1 << 17, (1 << bits) - 1))
        return wrong & ((1 << bits) - 1)

    def word(self, right: bytes) -> bytes:
        if self.chance.random() >= self._error_rate:
            return right
        return (int.from_bytes(right, "little") ^ 1 << self.chance.randrange(64)).to_bytes(8, "little")

    def data(self, offset: int, size: int) -> bytes:
        return self.word(data_pointer(offset, self.number(size, 29)))

    def message(self, *segments: bytes) -> bytes:
        """Pack the segment table and the segments."""
        counts = [len(segments) - 1, *(len(segment) // 8 for segment in segments)]
        counts += [0] * (len(counts) % 2)
        table = b"".join(self.number(count).to_bytes(4, "little") for count in counts)
        packed = pack if self.chance.random() < 0.7 else lambda words: pack_freely(words, self.chance)
        if self.chance.random() < 0.05:
            return packed(table + b"".join(segments))
        return packed(table[:8]) + packed(table[8:]) + pack_freely(b"".join(segments), self.chance)

    def far(self, segment: int) -> bytes:
        return self.word(b"\x02\x00\x00\x00" + self.number(segment, 8).to_bytes(4, "little"))


def whole_words(content: bytes) -> bytes:
    return content + bytes(-len(content) % 8)


def distorted_message(chance: random.Random) -> bytes:
    """Build a ChannelMessage in a known layout, or in a similar one."""
    make = Distorter(chance, chance.choice((0.0, 0.02, 0.1)))
    payload = FILLINGS[chance.choice(list(FILLINGS))](chance.choice((0, 1, 8, 9, 30, 200, 700, 2500, 4500)))
    head = struct_pointer(0, make.number(1, 16), make.number(1, 16)) + make.word(discriminant_word(1))
    if chance.random() < 0.7:
        user = make.message(head + make.data(0, len(payload)) + whole_words(payload))
    else:
        user = make.message(head + make.far(1), make.data(0, len(payload)) + whole_words(payload))
    user += chance.choice((b"", b"", b"\x00", bytes(20)))
    padding = FILLINGS[chance.choice(list(FILLINGS))](
        chance.choice((0, 1, 7, 8, 40, 255, 504, 505, 900, 5000))
    )
    padding_words = whole_words(padding)
    near_padding, near_user = chance.random() < 0.6, chance.random() < 0.6
    segments = [make.word(struct_pointer(0, 0, 2))]
    if near_padding:
        segments[0] += make.data(1, len(padding))
        segments[0] += make.word(struct_pointer(len(padding_words) // 8, 1, 1)) + padding_words
    else:
        segments[0] += make.far(1) + make.word(struct_pointer(0, 1, 1))
        segments.append(make.data(0, len(padding)) + padding_words)
    segments[0] += make.word(discriminant_word(1))
    if near_user:
        segments[0] += make.data(0, len(user)) + whole_words(user)
    else:
        segments[0] += make.far(len(segments))
        segments.append(make.data(0, len(user)) + whole_words(user))
    if chance.random() < make.number(0, 1) + 0.03:
        segments.append(bytes(8))
    return make.message(*segments)


def mutate(packed: bytes, chance: random.Random) -> bytes:
    """Change a few bytes of a message, mostly in its structure."""
    changed = bytearray(packed)
    for _ in range(chance.choice((1, 1, 2, 4))):
        near = chance.choice((24, 48, len(changed), len(changed)))
        at = chance.randrange(max(1, min(near, len(changed))))
        kind = chance.randrange(7)
        if kind == 0 and changed:
            del changed[at : at + chance.choice((1, 1, 2, 8))]
        elif kind == 1:
            changed[at:at] = chance.choice((b"\x00", b"\xff", b"\x00\xff", bytes(8), chance.randbytes(2)))
        elif kind == 2:
            del changed[len(changed) - chance.randrange(12) :]
        elif kind == 3:
            changed += chance.choice((b"\x00", b"\x00\xff", b"\xff" * 20, packed))
        elif changed:
            at = min(at, len(changed) - 1)
            changed[at] = chance.choice(
                (changed[at] ^ 1 << chance.randrange(8), 0, 255, changed[at] + 1 & 255, changed[at] - 1 & 255)
            )
    return bytes(changed)
