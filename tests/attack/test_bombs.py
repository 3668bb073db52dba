"""Messages that are made to cost the one who unpacks them."""

from __future__ import annotations

import os
import struct
import time
from functools import partial
from typing import Callable

import pytest

from offset_common.wire.capnp import data_pointer, discriminant_word, segment_table, struct_pointer
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import ChannelMessage, InitRole
from offset_common.wire.packing import pack
from tests.attack.crowd import Crowd, Visitor
from tests.attack.siege import Siege

MOST_PER_BOMB = 0.005  # seconds of the relay's processor
BOMBS_THROWN = 60
WORD = struct.Struct("<Q")


def far_pointer(position: int, segment: int, double: bool = False) -> bytes:
    """Make a far pointer."""
    return struct.pack("<II", position << 3 | double << 2 | 2, segment)


def table(*words: int) -> bytes:
    """Make a segment table."""
    sizes = struct.pack(f"<I{len(words)}I", len(words) - 1, *words)
    return pack(sizes + bytes(-len(sizes) % 8))


def zero_runs(size: int) -> bytes:
    """Make so many bytes, each two of which unpack to 2048 zero bytes."""
    return b"\x00\xff" * (size // 2)


def nothing_but_zero_runs(size: int) -> bytes:
    return zero_runs(size)


def zero_runs_behind_a_table_that_allows_them(size: int) -> bytes:
    return table(size // 2 * 256) + zero_runs(size)


def zero_runs_up_to_the_largest_message(size: int) -> bytes:
    return table(64 * 1024 * 2) + zero_runs(1024)


def a_data_of_zero_runs(size: int) -> bytes:
    words = 64 * 1024
    first = pack(struct_pointer(0, 0, 2)) + b"\x00\x00" + pack(data_pointer(0, words * 8))
    return table(3 + words) + first + zero_runs(512)


def words_that_are_slow_to_unpack(size: int) -> bytes:
    words = size // 16  # honest messages of that kind are as dear: it takes its time by the byte
    content = pack(struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + bytes(8))
    return table(3 + words) + content + b"\x7f\x01\x02\x03\x04\x05\x06\x07" * words


def words_of_single_bytes(size: int) -> bytes:
    words = size // 4
    content = pack(struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + bytes(8))
    return table(3 + words) + content + b"\x01\x01" * words


def segments_without_number(size: int) -> bytes:
    return pack(struct.pack("<II", 2**32 - 1, 1)) + zero_runs(size)


def a_table_of_512_segments(size: int) -> bytes:
    return table(*[1] * 512) + pack(WORD.pack(0)) * 512


def a_table_of_511_segments_that_lead_to_each_other(size: int) -> bytes:
    body = b"".join(far_pointer(0, number + 1) for number in range(510)) + far_pointer(0, 0)
    return table(*[1] * 511) + pack(body)


def a_pointer_to_itself(size: int) -> bytes:
    return table(2) + pack(struct_pointer(-1, 0, 1) + struct_pointer(-2, 0, 2))


def a_struct_inside_itself(size: int) -> bytes:
    return table(3) + pack(struct_pointer(0, 0, 2) + struct_pointer(-1, 0, 2) + struct_pointer(-2, 0, 2))


def a_far_pointer_to_itself(size: int) -> bytes:
    return table(1) + pack(far_pointer(0, 0))


def double_far_pointers_in_a_ring(size: int) -> bytes:
    return table(1, 2, 2) + pack(
        far_pointer(0, 1, True) + far_pointer(0, 2, True) * 2 + far_pointer(0, 1, True) * 2
    )


def two_pointers_to_one_large_object(size: int) -> bytes:
    words = 65535
    first = struct_pointer(0, 0, 2) + data_pointer(1, words * 8) + struct_pointer(0, words, 0)
    return table(3 + words) + pack(first) + zero_runs(512)


def a_struct_of_all_words_there_are(size: int) -> bytes:
    return table(1 + 2 * 65535) + pack(struct_pointer(0, 65535, 65535)) + zero_runs(1024)


def a_list_of_all_bytes_there_are(size: int) -> bytes:
    first = struct_pointer(0, 0, 2) + data_pointer(1, 2**29 - 1) + struct_pointer(0, 1, 1)
    return table(5) + pack(first + discriminant_word(1) + data_pointer(0, 2**29 - 1))


def random_bytes(size: int) -> bytes:
    return os.urandom(size)


def a_table_of_one_word_and_random_bytes(size: int) -> bytes:
    return pack(segment_table(size // 8)) + os.urandom(size)


BOMBS: list[Callable[[int], bytes]] = [
    nothing_but_zero_runs,
    zero_runs_behind_a_table_that_allows_them,
    zero_runs_up_to_the_largest_message,
    a_data_of_zero_runs,
    words_that_are_slow_to_unpack,
    words_of_single_bytes,
    segments_without_number,
    a_table_of_512_segments,
    a_table_of_511_segments_that_lead_to_each_other,
    a_pointer_to_itself,
    a_struct_inside_itself,
    a_far_pointer_to_itself,
    double_far_pointers_in_a_ring,
    two_pointers_to_one_large_object,
    a_struct_of_all_words_there_are,
    a_list_of_all_bytes_there_are,
    random_bytes,
    a_table_of_one_word_and_random_bytes,
]


def as_channel_message(visitor: Visitor, bomb: bytes) -> None:
    """Seal it where a ChannelMessage should be."""
    assert visitor.connection is not None
    visitor.send_bytes(encode_frame(visitor.connection.secure_channel.sending.encrypt(bomb)))


def as_keepalive_message(visitor: Visitor, bomb: bytes) -> None:
    """Seal it where a KaMessage should be."""
    as_channel_message(visitor, ChannelMessage(b"", bomb).encode())


def as_message(visitor: Visitor, bomb: bytes) -> None:
    """Send it as a message: an InitConnection, a RejectConnection, or what another node gets."""
    visitor.send(bomb)


def newcomers(crowd: Crowd) -> list[Visitor]:
    return crowd.prove(BOMBS_THROWN)


def listeners(crowd: Crowd) -> list[Visitor]:
    return crowd.prove(BOMBS_THROWN, then=lambda each: each.init(InitRole.LISTEN))


def tunnel_ends(crowd: Crowd) -> list[Visitor]:
    return [near for near, _ in crowd.tunnels(BOMBS_THROWN)]


def seconds_for_each(siege: Siege, throw: Callable[[], None], count: int, done: Callable[[], bool]) -> float:
    """Return the processor seconds that the relay spends on each of `count` bombs."""
    time.sleep(0.05)  # what was before them is over
    before, began = siege.processor_seconds(), time.monotonic()
    throw()
    assert done()
    canaries = (time.monotonic() - began) / 0.2 * 0.015
    return (siege.processor_seconds() - before - canaries) / count


@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_before_the_handshake_costs_next_to_nothing(
    siege: Siege, bomb: Callable[[int], bytes]
) -> None:
    crowd = siege.crowd()
    visitors = crowd.dial(BOMBS_THROWN)
    large, small = encode_frame(bomb(64 * 1024)), encode_frame(bomb(2000)[:2048])

    def throw() -> None:
        for number, visitor in enumerate(visitors):
            visitor.send_bytes(bytes(7) + b"\x04" + bytes(4) + (small if number % 2 else large))

    def done() -> bool:
        return crowd.all_end(visitors, 3.0)

    assert seconds_for_each(siege, throw, BOMBS_THROWN, done) < MOST_PER_BOMB


@pytest.mark.slow
@pytest.mark.parametrize("deliver", [as_channel_message, as_keepalive_message, as_message])
@pytest.mark.parametrize("arrive", [newcomers, listeners, tunnel_ends])
def test_bombs_after_the_handshake_cost_next_to_nothing(
    siege: Siege, arrive: Callable[[Crowd], list[Visitor]], deliver: Callable[[Visitor, bytes], None]
) -> None:
    crowd = siege.crowd()
    costs: dict[str, float] = {}
    for make in BOMBS:
        visitors = arrive(crowd)
        throw = partial(deliver_to_all, deliver, visitors, make(64 * 1024))
        # A message that is none ends its connection, except in a tunnel, where it is another node's.
        costs[make.__name__] = seconds_for_each(
            siege, throw, len(visitors), partial(all_are_processed, crowd, visitors)
        )
        crowd.leave()
    if os.environ.get("ATTACK_FIGURES"):
        print({name: f"{cost * 1000:.2f} ms" for name, cost in costs.items()})
    assert {name: cost for name, cost in costs.items() if cost >= MOST_PER_BOMB} == {}


@pytest.mark.slow
@pytest.mark.parametrize(("size", "words"), [(1_000_000, 120_000), (60_000, 28_000), (700, 130_000)])
def test_many_who_send_what_is_slow_to_unpack_delay_nobody_else(siege: Siege, size: int, words: int) -> None:
    unit = b"\xfe\x01\x02\x03\x04\x05\x06\x07" if size > 60_000 else b"\x01\x01"
    body = unit * words if size > 700 else b"\x00\xff" * (words // 256) + bytes((0, words % 256 - 1))
    head = struct_pointer(0, 1, 1) + discriminant_word(1) + data_pointer(0, 8 * words)
    bomb = ChannelMessage(b"", pack(segment_table(3 + words)) + pack(head) + body).encode()
    crowd = siege.crowd()
    throwers = [near for near, _ in crowd.tunnels(40)]
    end = time.monotonic() + 8.0

    def supply(visitor: Visitor) -> bytes:
        if time.monotonic() > end:
            return b""
        assert visitor.connection is not None
        return encode_frame(visitor.connection.secure_channel.sending.encrypt(bomb))

    for thrower in throwers:
        thrower.supply = partial(supply, thrower)
        thrower.flush()
    crowd.run_for(8.0)
    siege.end_watch(crowd_may_run=True)
    assert siege.p99 < 0.2


def deliver_to_all(deliver: Callable[[Visitor, bytes], None], visitors: list[Visitor], bomb: bytes) -> None:
    """Let each visitor throw it."""
    for visitor in visitors:
        deliver(visitor, bomb)


def all_are_processed(crowd: Crowd, visitors: list[Visitor]) -> bool:
    """Wait until the relay has dealt with everything: it ends the connection, or has it at leisure."""
    sent = crowd.run(lambda: all(each.ended or not each.waiting_to_send for each in visitors), 3.0)
    crowd.all_end(visitors, 0.15)
    return sent
