"""Run a load: one process only sends prepared frames, another only counts those that arrive."""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from struct import Struct
from typing import Callable, NamedTuple

from bench.processes import Child, close_pipe_and_exit
from offset_common.constants import FRAME_LENGTH_SIZE

BUFFER_SIZE = 1024 * 1024  # bytes of one read at the far end
SLICE_SIZE = 64 * 1024  # bytes sent to one of many tunnels before the next one

_LENGTH = Struct(">Q")


class FrameCounter:
    """Counts the frames of a stream by their length prefixes.

    `rest` holds the bytes of a partial length; the caller puts them in front of the next bytes.
    """

    __slots__ = ("count", "rest", "skip")

    def __init__(self) -> None:
        self.count = 0  # frames whose length has arrived
        self.skip = 0  # missing bytes of the last one
        self.rest = b""

    @property
    def whole(self) -> int:
        """The number of complete frames."""
        return self.count - (self.skip > 0)

    def feed(self, data: memoryview) -> None:
        """Count the frames of the next bytes, which begin with `rest`."""
        size = len(data)
        at = self.skip
        unpack_from = _LENGTH.unpack_from
        last = size - FRAME_LENGTH_SIZE
        while at <= last:
            at += FRAME_LENGTH_SIZE + unpack_from(data, at)[0]
            self.count += 1
        self.rest = bytes(data[at:])
        self.skip = max(0, at - size)


class Stream(NamedTuple):
    """The frames of one path through the process under test.

    Args:
        sink: the socket to send them to.
        source: the socket to receive them from.
        frames: the bytes of all frames.
        messages: the number of frames.
        check: called with all received bytes after the clock has stopped; raises if they are wrong.
    """

    sink: socket.socket
    source: socket.socket
    frames: bytearray
    messages: int
    check: Callable[[bytes], None]


class Load(NamedTuple):
    """The cost of a load.

    Args:
        wall: seconds until the last frame arrived.
        cpu: seconds of CPU time of the process under test.
        finished: for each stream, seconds until its last frame arrived.
    """

    wall: float
    cpu: float
    finished: list[float]


def run_load(streams: Sequence[Stream], cpu_seconds: Callable[[], float], verify: bool) -> Load:
    """Send the frames of all streams at once, wait until they have arrived, and return the cost.

    Args:
        streams: the frames and their sockets.
        cpu_seconds: returns the CPU time that the process under test has used so far.
        verify: keep the received bytes and check them afterwards.
    """
    receiver = Child(_receive, streams, verify)
    sender = Child(_send, streams)
    try:
        receiver.receive()
        sender.receive()
        cpu = cpu_seconds()
        begin = time.monotonic()
        sender.send()
        times: list[float] = receiver.receive()
        cpu = cpu_seconds() - cpu
        if verify:
            receiver.send()
            receiver.receive()
    finally:
        sender.stop()
        receiver.stop()
    return Load(max(times) - begin, cpu, [moment - begin for moment in times])


def _send(pipe: Pipe, streams: Sequence[Stream]) -> None:
    for stream in streams:
        stream.sink.setblocking(len(streams) == 1)
    pipe.send("ready")
    pipe.recv()
    if len(streams) == 1:
        streams[0].sink.sendall(streams[0].frames)
    else:
        _send_to_many(streams)
    pipe.recv()  # wait to be stopped: exiting would use CPU time while the clock runs


def _send_to_many(streams: Sequence[Stream]) -> None:
    selector = selectors.DefaultSelector()
    left = {}
    for stream in streams:
        selector.register(stream.sink, selectors.EVENT_WRITE)
        left[stream.sink.fileno()] = memoryview(stream.frames)
    while left:
        for key, _ in selector.select():
            frames = left[key.fd]
            assert isinstance(key.fileobj, socket.socket)
            frames = frames[key.fileobj.send(frames[:SLICE_SIZE]) :]
            if frames:
                left[key.fd] = frames
            else:
                selector.unregister(key.fileobj)
                del left[key.fd]


class _Arrival:
    """The part of one stream that has arrived."""

    def __init__(self, stream: Stream, verify: bool) -> None:
        self.stream = stream
        self.counter = FrameCounter()
        self.kept = bytearray() if verify else None

    def receive(self, buffer: memoryview) -> bool:
        """Read once; return whether all frames have arrived.

        Raises:
            ConnectionError: the stream ended too early.
        """
        counter = self.counter
        begin = len(counter.rest)
        buffer[:begin] = counter.rest
        size = self.stream.source.recv_into(buffer[begin:])
        if not size:
            raise ConnectionError(f"closed after {counter.whole} of {self.stream.messages} messages")
        if self.kept is not None:
            self.kept += buffer[begin : begin + size]
        counter.feed(buffer[: begin + size])
        return counter.whole >= self.stream.messages


def _receive(pipe: Pipe, streams: Sequence[Stream], verify: bool) -> None:
    arrivals = [_Arrival(stream, verify) for stream in streams]
    buffer = memoryview(bytearray(BUFFER_SIZE))
    for stream in streams:
        stream.source.setblocking(len(streams) == 1)
    pipe.send("ready")
    if len(streams) == 1:
        while not arrivals[0].receive(buffer):
            pass
        times = [time.monotonic()]
    else:
        times = _receive_of_many(arrivals, buffer)
    pipe.send(times)
    pipe.recv()
    for arrival in arrivals:
        assert arrival.kept is not None
        arrival.stream.check(bytes(arrival.kept))
    pipe.send("checked")
    close_pipe_and_exit(pipe)


def _receive_of_many(arrivals: Sequence[_Arrival], buffer: memoryview) -> list[float]:
    selector = selectors.DefaultSelector()
    for arrival in arrivals:
        selector.register(arrival.stream.source, selectors.EVENT_READ, arrival)
    times: list[float] = []
    while len(times) < len(arrivals):
        for key, _ in selector.select():
            if key.data.receive(buffer):
                times.append(time.monotonic())
                selector.unregister(key.fileobj)
    return times
