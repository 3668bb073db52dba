"""Frames that announce more than a frame may have, and frames that are begun and never ended."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from offset_common.constants import MAX_FRAME_SIZE, MAX_HANDSHAKE_FRAME_SIZE
from tests.attack.crowd import Visitor
from tests.attack.siege import MIB, Siege
from tests.attack.supplies import zeros
from tests.attack.test_ciphertext import ROLES

LENGTHS = [MAX_FRAME_SIZE + 1, 2**31, 2**40, 2**63, 2**64 - 1]
BEHIND = 64 * MIB


def send_too_long_a_frame(visitor: Visitor, length: int) -> None:
    """Announce it, and send what is behind it."""
    visitor.supply = zeros(BEHIND)
    visitor.send_bytes(length.to_bytes(8, "big"))


@pytest.mark.parametrize("length", LENGTHS)
def test_a_length_that_no_frame_may_have_is_refused_after_the_handshake(siege: Siege, length: int) -> None:
    crowd = siege.crowd()
    visitors = [role(crowd) for role in ROLES]
    for visitor in visitors:
        send_too_long_a_frame(visitor, length)
    assert crowd.all_end(visitors, 3.0)


@pytest.mark.parametrize("length", [5, MAX_HANDSHAKE_FRAME_SIZE + 1, *LENGTHS])
def test_a_length_that_no_frame_may_have_is_refused_before_the_handshake(siege: Siege, length: int) -> None:
    crowd = siege.crowd()
    visitors = crowd.dial(20)
    for number, visitor in enumerate(visitors):
        if number % 2:
            visitor.begin_handshake()  # the version and the first message come first
            length = max(length, MAX_HANDSHAKE_FRAME_SIZE + 1)
        send_too_long_a_frame(visitor, length)
    assert crowd.all_end(visitors, 3.0)


@pytest.mark.slow
def test_large_frames_that_are_begun_and_never_ended_keep_nobody_from_sending_a_large_message(
    siege: Siege,
) -> None:
    crowd = siege.crowd()
    begin_large_frames([near for near, _ in crowd.tunnels(30)])
    near, far = crowd.tunnels(1)[0]
    message = bytes(MIB)
    near.send(message)
    assert crowd.run(lambda: bool(far.messages), 30.0)
    assert far.messages == [message]


@pytest.mark.slow
def test_large_frames_that_are_begun_and_never_ended_do_not_end_one_that_comes_slowly(siege: Siege) -> None:
    crowd = siege.crowd()
    near, far = crowd.tunnels(1)[0]
    strangers = [caller for caller, _ in crowd.tunnels(60)]
    message = bytes(MIB)
    near.seal(message)
    assert near.connection is not None
    frame = near.connection.data_to_send()
    parts = [frame[start : start + len(frame) // 50] for start in range(0, len(frame), len(frame) // 50)]
    for number, part in enumerate(parts):
        near.send_bytes(part)
        crowd.run_for(0.1)
        if not number:
            begin_large_frames(strangers)
    assert crowd.run(lambda: bool(far.messages)), (near.ended, far.ended)
    assert far.messages == [message]


def begin_large_frames(visitors: Sequence[Visitor]) -> None:
    """Let each begin the largest frame there is, and stop."""
    for visitor in visitors:
        visitor.send_bytes(MAX_FRAME_SIZE.to_bytes(8, "big") + bytes(100))
