"""Rows: how long a small message takes through a tunnel and back.

Both ends send frames that were sealed before and read only length prefixes, so the time is the relay's
and the system's. The measure beside it is a process that only copies bytes between two sockets.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Callable, NamedTuple

from bench.client import Client, Tunnel, open_tunnels
from bench.encoding import Plaintext, encode_as_released, make_plaintexts, seal_frames
from bench.floor import OPENING_KEY
from bench.options import Figures, Options, Report
from bench.processes import Child, close_pipe_and_exit
from bench.relay_process import RelayProcess
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_PADDING_SENT

SIZE = 64  # bytes of each message
BUSY_SIZE = 1024  # bytes of each message of the tunnel at full speed
BUSY_BYTES = 64 << 20  # of payload through that tunnel, all sealed before
WARM_UP = 200  # round trips that do not count
READ_SIZE = 64 * 1024

Done = Callable[[], bool]


class Ends(NamedTuple):
    """Two sockets that lead to each other, and the frames that each end will send."""

    near: socket.socket
    far: socket.socket
    near_frames: Sequence[bytes]
    far_frames: Sequence[bytes]


def measure_round_trip(options: Options, report: Report) -> None:
    """Measure round trips of 64 B, alone, through a bare splice, and beside a tunnel at full speed."""
    count = 2000 if options.quick else 10_000
    splice = _through_splice(count)
    report(_figures("round-trip-splice", splice, splice))
    with RelayProcess() as relay:
        tunnel, busy = open_tunnels(relay, 2)
        quiet = _round_trips(_tunnel_ends(tunnel, count))
        report(_figures("round-trip", quiet, splice))
        beside = _beside_full_speed(tunnel, busy, count)
    figures = _figures("round-trip-busy", beside, splice)
    figures["p99_by_quiet_p50"] = _quantile(beside, 0.99) / _quantile(quiet, 0.5)
    report(figures)


def _tunnel_ends(tunnel: Tunnel, count: int) -> Ends:
    plaintexts = make_plaintexts(encode_as_released, SIZE, MAX_PADDING_SENT)
    ends = (tunnel.near, tunnel.far)
    # A frame each time from the next plaintext: sizes change as padding does.
    near, far = ([_frame(end, plaintexts, number) for number in range(count)] for end in ends)
    return Ends(tunnel.near.sock, tunnel.far.sock, near, far)


def _frame(end: Client, plaintexts: Sequence[Plaintext], number: int) -> bytes:
    return bytes(end.seal_frames([plaintexts[number % len(plaintexts)]], 1))


def _through_splice(count: int) -> list[float]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        child = Child(_splice, server)
        near = socket.create_connection(server.getsockname())
        far = socket.create_connection(server.getsockname())
    for sock in (near, far):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    plaintexts = make_plaintexts(encode_as_released, SIZE, MAX_PADDING_SENT)
    frames = [
        bytes(seal_frames(OPENING_KEY, number, [plaintexts[number % len(plaintexts)]], 1))
        for number in range(count)
    ]
    try:
        child.hear()
        return _round_trips(Ends(near, far, frames, frames))
    finally:
        child.stop()
        near.close()
        far.close()


def _splice(pipe: Pipe, server: socket.socket) -> None:
    first, _ = server.accept()
    second, _ = server.accept()
    selector = selectors.DefaultSelector()
    for sock, other in ((first, second), (second, first)):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(sock, selectors.EVENT_READ, other)
    buffer = memoryview(bytearray(READ_SIZE))
    pipe.send("ready")
    while True:
        for key, _ in selector.select():
            assert isinstance(key.fileobj, socket.socket)
            size = key.fileobj.recv_into(buffer)
            if not size:
                close_pipe_and_exit(pipe)
            key.data.sendall(buffer[:size])


def _beside_full_speed(tunnel: Tunnel, busy: Tunnel, count: int) -> list[float]:
    """Measure round trips while another tunnel carries as much as it can."""
    plaintexts = make_plaintexts(encode_as_released, BUSY_SIZE, MAX_PADDING_SENT)
    frames = busy.near.seal_frames(plaintexts, BUSY_BYTES // BUSY_SIZE)
    ends = _tunnel_ends(tunnel, count)
    drain = Child(_drain, busy.far.sock)
    send = Child(_send, busy.near.sock, frames)
    try:
        drain.hear()
        send.tell()
        time.sleep(0.05)  # the tunnel is at full speed by then; no figure depends on it
        return _round_trips(ends, lambda: send.has_spoken)
    finally:
        send.stop()
        drain.stop()


def _send(pipe: Pipe, sock: socket.socket, frames: bytearray) -> None:
    sock.setblocking(True)
    pipe.recv()
    sock.sendall(frames)
    pipe.send("sent")
    pipe.recv()


def _drain(pipe: Pipe, sock: socket.socket) -> None:
    sock.setblocking(True)
    buffer = bytearray(1 << 20)
    pipe.send("ready")
    while sock.recv_into(buffer):
        pass
    close_pipe_and_exit(pipe)


def _round_trips(ends: Ends, done: Done = lambda: False) -> list[float]:
    """Send from the near end, let the far end answer, again and again; return the sorted seconds of each."""
    echo = Child(_echo, ends.far, ends.far_frames)
    ends.near.setblocking(True)
    times = []
    try:
        echo.hear()
        for frame in ends.near_frames:
            begin = time.perf_counter()
            ends.near.sendall(frame)
            _read_frame(ends.near)
            times.append(time.perf_counter() - begin)
            if done():
                break
    finally:
        echo.stop()
    return sorted(times[WARM_UP:])


def _echo(pipe: Pipe, sock: socket.socket, frames: Sequence[bytes]) -> None:
    sock.setblocking(True)
    pipe.send("ready")
    for frame in frames:
        _read_frame(sock)
        sock.sendall(frame)
    pipe.recv()


def _read_frame(sock: socket.socket) -> None:
    data = sock.recv(READ_SIZE)
    while len(data) < FRAME_LENGTH_SIZE or len(data) - FRAME_LENGTH_SIZE < int.from_bytes(
        data[:FRAME_LENGTH_SIZE], "big"
    ):
        more = sock.recv(READ_SIZE)
        if not (data and more):
            raise ConnectionError("the connection ended")
        data += more


def _quantile(times: Sequence[float], part: float) -> float:
    return times[min(len(times) - 1, int(len(times) * part))]


def _figures(name: str, times: Sequence[float], splice: Sequence[float]) -> Figures:
    return {
        "row": name,
        "p50_us": _quantile(times, 0.5) * 1e6,
        "p99_us": _quantile(times, 0.99) * 1e6,
        "p50_by_splice": _quantile(times, 0.5) / _quantile(splice, 0.5),
    }
