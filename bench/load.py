"""The load: one process that only sends prepared frames, one that only walks length prefixes."""

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

BUFFER_SIZE = 1024 * 1024  # bytes read at once, at the far end
SLICE_SIZE = 64 * 1024  # bytes sent to one of many tunnels before the others have their turn

_LENGTH = Struct(">Q")


class FrameCounter:
    """Counts the frames of a stream by their length prefixes, reading nothing else.

    Bytes of a length that came in part are kept in `rest`: the caller puts them in front of the next bytes.
    """

    __slots__ = ("count", "rest", "skip")

    def __init__(self) -> None:
        self.count = 0  # frames whose length was seen
        self.skip = 0  # bytes that belong to the last of them and are still to come
        self.rest = b""

    @property
    def whole(self) -> int:
        """The frames that came to their last byte."""
        return self.count - (self.skip > 0)

    def feed(self, data: memoryview) -> None:
        """Take the next bytes, those of `rest` in front."""
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
    """What goes through one path.

    Args:
        sink: where the frames are sent.
        source: where they come out.
        frames: all of them.
        messages: how many.
        check: called, after the clock is stopped, with every byte that came out; raises if they are wrong.
    """

    sink: socket.socket
    source: socket.socket
    frames: bytearray
    messages: int
    check: Callable[[bytes], None]


class Load(NamedTuple):
    """What a load took.

    Args:
        wall: seconds until the last frame was out.
        cpu: seconds of CPU time of the process under test.
        finished: seconds until each stream's last frame was out.
    """

    wall: float
    cpu: float
    finished: list[float]


def run_load(streams: Sequence[Stream], cpu_seconds: Callable[[], float], verify: bool) -> Load:
    """Send all streams' frames at once, wait until they are out, and tell what that took.

    Args:
        streams: what to send and where.
        cpu_seconds: tells the CPU time that the process under test used so far.
        verify: keep what comes out, and check it afterwards.
    """
    receiver = Child(_receive, streams, verify)
    sender = Child(_send, streams)
    try:
        receiver.hear()
        sender.hear()
        cpu = cpu_seconds()
        begin = time.monotonic()
        sender.tell()
        times: list[float] = receiver.hear()
        cpu = cpu_seconds() - cpu
        if verify:
            receiver.tell()
            receiver.hear()
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
    pipe.recv()  # stay until stopped, so that our end costs nothing while the clock runs


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
    """What has come out of one stream."""

    def __init__(self, stream: Stream, verify: bool) -> None:
        self.stream = stream
        self.counter = FrameCounter()
        self.kept = bytearray() if verify else None

    def receive(self, buffer: memoryview) -> bool:
        """Read once; say whether all is there.

        Raises:
            ConnectionError: the stream ended early.
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
    pipe.send("right")
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
