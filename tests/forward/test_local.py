"""offset_common/forward/local.py: what a slow local connection may cost."""

from __future__ import annotations

import socket
import tracemalloc

from offset_common.forward.event_loop import EventLoop
from offset_common.forward.local import BUFFER_SIZE, LocalConnection
from offset_common.forward.streams import Streams


class OpenGate:
    """A session that accepts everything."""

    def __init__(self) -> None:
        self.unwritten = 0
        self.buffer = memoryview(bytearray(BUFFER_SIZE))

    def may_send(self) -> bool:
        return True

    def wait_to_send(self, local: LocalConnection) -> None:
        raise AssertionError("the session is never full")

    def count_unwritten(self, size: int) -> None:
        self.unwritten += size


def test_many_small_messages_cost_no_more_than_their_bytes() -> None:
    gate, loop = OpenGate(), EventLoop()
    local = LocalConnection(loop, lambda local, reason: None)
    local.enter(gate)
    Streams(lambda message: None).open("slow", local)
    tracemalloc.start()
    for _ in range(200_000):
        local.on_data(memoryview(b"x"))
    assert tracemalloc.get_traced_memory()[0] < 1_000_000
    tracemalloc.stop()
    assert gate.unwritten == 200_000
    local.fail("enough")
    assert gate.unwritten == 0
    loop.close()


def test_bytes_that_came_before_the_connection_are_written() -> None:
    gate, loop = OpenGate(), EventLoop()
    local = LocalConnection(loop, lambda local, reason: None)
    local.enter(gate)
    Streams(lambda message: None).open("slow", local)
    ours, theirs = socket.socketpair()
    local.on_data(memoryview(b"early"))
    local.on_end()
    local.start(ours)
    with theirs:
        assert theirs.recv(100) == b"early"
        assert theirs.recv(100) == b""
    local.fail("done")
    loop.close()
