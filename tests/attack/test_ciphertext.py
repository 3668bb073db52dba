"""Sealed messages that are not the next one, or not sealed at all; an InitConnection that is none."""

from __future__ import annotations

import os
import time
from typing import Callable

import pytest

from offset_common.constants import ENCRYPTION_OVERHEAD
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import InitConnection, InitRole
from tests.attack.crowd import Crowd, Visitor
from tests.attack.siege import Siege


def newcomer(crowd: Crowd) -> Visitor:
    return crowd.prove()[0]


def listener(crowd: Crowd) -> Visitor:
    return crowd.listen()


def waiting_connect(crowd: Crowd) -> Visitor:
    return crowd.connect(1, crowd.listen().identity.public_key)[0]


def tunnel_end(crowd: Crowd) -> Visitor:
    return crowd.tunnels(1)[0][0]


ROLES = [newcomer, listener, waiting_connect, tunnel_end]


def next_frame(visitor: Visitor, message: bytes = b"x") -> bytes:
    """Return the frame of the next message, unsent."""
    assert visitor.connection is not None
    visitor.connection.send(message, time.monotonic())
    return visitor.connection.data_to_send()


def with_a_bad_tag(visitor: Visitor) -> bytes:
    frame = bytearray(next_frame(visitor))
    frame[-1] ^= 1
    return bytes(frame)


def with_a_flipped_bit(visitor: Visitor) -> bytes:
    frame = bytearray(next_frame(visitor))
    frame[len(frame) // 2] ^= 16
    return bytes(frame)


def with_another_nonce(visitor: Visitor) -> bytes:
    frame = bytearray(next_frame(visitor))
    frame[8:20] = os.urandom(12)
    return bytes(frame)


def after_a_gap(visitor: Visitor) -> bytes:
    next_frame(visitor)
    return next_frame(visitor)


def cut_short(visitor: Visitor) -> bytes:
    return encode_frame(next_frame(visitor)[8:-1])


def made_longer(visitor: Visitor) -> bytes:
    return encode_frame(next_frame(visitor)[8:] + b"\0")


def of_nothing_known(visitor: Visitor) -> bytes:
    return encode_frame(os.urandom(1000))


SPOILT = [
    with_a_bad_tag,
    with_a_flipped_bit,
    with_another_nonce,
    after_a_gap,
    cut_short,
    made_longer,
    of_nothing_known,
]


@pytest.mark.parametrize("role", ROLES)
def test_a_frame_too_short_to_be_sealed_ends_its_connection_only(
    siege: Siege, role: Callable[[Crowd], Visitor]
) -> None:
    crowd = siege.crowd()
    for size in range(ENCRYPTION_OVERHEAD):
        visitor = role(crowd)
        visitor.send_bytes(encode_frame(os.urandom(size)))
        assert crowd.all_end([visitor], 2.0), f"{size} bytes"
    siege.relay.wait_for_line("the peer broke the protocol", 1)


@pytest.mark.parametrize("role", ROLES)
def test_a_message_that_is_not_the_next_one_ends_its_connection_only(
    siege: Siege, role: Callable[[Crowd], Visitor]
) -> None:
    crowd = siege.crowd()
    for spoil in SPOILT:
        visitor = role(crowd)
        visitor.send_bytes(spoil(visitor))
        assert crowd.all_end([visitor], 2.0), spoil.__name__


def test_a_message_that_comes_a_second_time_ends_its_tunnel_after_the_first_was_delivered(
    siege: Siege,
) -> None:
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    near.send_bytes(next_frame(near, b"once") * 2)
    assert crowd.all_end([near, far], 3.0)
    assert far.messages == [b"once"]


@pytest.mark.parametrize(
    "init",
    [b"", b"\0", b"\0\0", os.urandom(300), bytes(4096), b"\x10\x03\x50\x01\x01\x01\x07\x00\x00"],
    ids=["empty", "half a word", "one word", "random", "zeros", "no such role"],
)
def test_an_init_connection_that_is_none_ends_its_connection_only(siege: Siege, init: bytes) -> None:
    crowd = siege.crowd()
    visitors = crowd.prove(5, then=lambda each: each.send(init))
    assert crowd.all_end(visitors, 2.0)
    siege.relay.wait_for_line("the peer broke the protocol", 1)


def test_a_second_init_connection_changes_no_role(siege: Siege) -> None:
    crowd = siege.crowd()
    heard = crowd.listen()
    key = heard.identity.public_key
    heard.init(InitRole.CONNECT, key).init(InitRole.LISTEN).init(InitRole.ACCEPT, key)
    caller = crowd.connect(1, key)[0]
    caller.init(InitRole.LISTEN).init(InitRole.ACCEPT, key)
    acceptor = crowd.prove(1, [heard.identity])[0].init(InitRole.ACCEPT, caller.identity.public_key)
    assert crowd.run(lambda: len(acceptor.messages) == 2)
    assert acceptor.messages == [
        InitConnection(InitRole.LISTEN).encode(),
        InitConnection(InitRole.ACCEPT, key).encode(),
    ]
