"""Input that a connection has not handled yet."""

from __future__ import annotations

import pytest

from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.input_buffer import InputBuffer, ReceiveBuffer
from offset_common.relay.limits import MIB
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
