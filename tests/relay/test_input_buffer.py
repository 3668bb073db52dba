"""Input that a connection has not handled yet."""

from __future__ import annotations

import pytest

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.input_buffer import InputBuffer, ReceiveBuffer
from offset_common.relay.limits import KIB, MIB
from offset_common.wire.frames import encode_frame


@pytest.mark.parametrize("size", [100, 10_000, 150_000])
def test_adopted_whole_frame_waits_for_no_more_input(size: int) -> None:
    buffer = InputBuffer(BufferPool(MIB).open_account("127.0.0.1"), ReceiveBuffer())
    frame = encode_frame(bytes(size))
    buffer.put(frame)
    assert buffer.backlog
    assert buffer.needs_reservation() == 0
    view, fill, _ = buffer.space(0)
    assert view[:fill] == frame


def test_large_buffers_are_used_again_and_few_are_kept() -> None:
    buffers = ReceiveBuffer()
    taken = [buffers.take(128 * KIB) for _ in range(10)]
    large = [buffer for buffer in taken if len(buffer) >= MAX_FRAME_SIZE]
    assert 0 < len(large) < 5
    assert all(len(buffer) == 128 * KIB for buffer in taken if buffer not in large)
    for buffer in taken:
        buffers.give_back(buffer)
    again = [buffers.take(MAX_FRAME_SIZE) for _ in range(len(large) + 1)]
    assert {id(buffer) for buffer in large} == {id(buffer) for buffer in again[: len(large)]}
    assert len(again[-1]) >= MAX_FRAME_SIZE
