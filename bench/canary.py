"""Rows: how long a small message takes through a tunnel and back, alone and beside bulk traffic.

Both ends of the measured tunnel seal each frame before the clock starts and read only length prefixes, so the
clock measures only the relay and the system.
"""

from __future__ import annotations

import itertools
import selectors
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe

from bench.client import Client, Tunnel, open_tunnels
from bench.encoding import Plaintext, encode_as_released, make_plaintexts
from bench.options import Figures, Options, Report
from bench.processes import Child
from bench.relay_process import RelayProcess
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_PADDING_SENT

SIZE = 64  # bytes of each message there and back
BUSY_SIZE = 1024  # bytes of each message of one busy tunnel
BULK_SIZE = 1 << 20  # bytes of each message of the bulk tunnels
BULK_TUNNELS = 50
BATCH_SIZE = 64 * 1024  # bytes of payload that a busy tunnel encrypts at once, but at least one message
WARM_UP = 0.2  # seconds of bulk traffic before the first round trip
ROUNDS = 3
ROUND_TIMEOUT = 7.0  # seconds; all rounds end before the relay closes receivers, which send no keepalives
READ_SIZE = 256 * 1024
SAME_ADDRESS, OTHER_ADDRESS = "127.0.0.1", "127.0.0.2"


class Canary:
    """A tunnel whose far end answers each message, while the `with` block lasts."""

    def __init__(self, tunnel: Tunnel) -> None:
        self._near = tunnel.near
        self._near.sock.setblocking(True)
        self._plaintexts = make_plaintexts(encode_as_released, SIZE, MAX_PADDING_SENT)
        self._echo = Child(_echo, tunnel.far, self._plaintexts)

    def __enter__(self) -> Canary:
        self._echo.receive()
        return self

    def __exit__(self, *_: object) -> None:
        self._echo.stop()

    def best_round_trips(self, count: int, rounds: int) -> list[float]:
        """Return the sorted round trips, in seconds, of the round with the smallest 99th percentile."""
        return min(
            (self._round_trips(count) for _ in range(rounds)), key=lambda times: _quantile(times, 0.99)
        )

    def paced_round_trips(self, seconds: float, pause: float) -> list[float]:
        """Return the sorted round trips, in seconds, over some time, with a pause after each."""
        times: list[float] = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            times.append(self._round_trip(len(times)))
            time.sleep(pause)
        return sorted(times)

    def _round_trips(self, count: int) -> list[float]:
        times: list[float] = []
        end = time.monotonic() + ROUND_TIMEOUT
        while len(times) < count and time.monotonic() < end:
            times.append(self._round_trip(len(times)))
        return sorted(times)

    def _round_trip(self, number: int) -> float:
        frame = _seal(self._near, self._plaintexts, number)
        begin = time.perf_counter()
        self._near.sock.sendall(frame)
        _read_frame(self._near)
        return time.perf_counter() - begin


class BulkTraffic:
    """Messages through tunnels as fast as the relay accepts them, while the `with` block lasts."""

    def __init__(self, tunnels: Sequence[Tunnel], size: int) -> None:
        plaintexts = make_plaintexts(encode_as_released, size, MAX_PADDING_SENT)
        self._receiver = Child(_receive, [tunnel.far for tunnel in tunnels])
        self._sender = Child(
            _send, [tunnel.near for tunnel in tunnels], plaintexts, max(1, BATCH_SIZE // size)
        )

    def __enter__(self) -> BulkTraffic:
        self._receiver.receive()
        self._sender.receive()
        time.sleep(WARM_UP)
        return self

    def __exit__(self, *_: object) -> None:
        self._sender.stop()
        self._receiver.stop()


def measure_round_trip(options: Options, report: Report) -> None:
    """Measure round trips alone, and beside one tunnel of 1 KiB messages."""
    count = 1000 if options.quick else 5000
    with RelayProcess() as relay:
        tunnel, busy = open_tunnels(relay, 2)
        with Canary(tunnel) as canary:
            quiet = canary.best_round_trips(count, ROUNDS)
            with BulkTraffic([busy], BUSY_SIZE):
                beside = canary.best_round_trips(count, ROUNDS)
    report(_figures("round-trip", quiet))
    figures = _figures("round-trip-busy", beside)
    figures["p99_by_quiet_p50"] = _quantile(beside, 0.99) / _quantile(quiet, 0.5)
    report(figures)


def measure_canary(options: Options, report: Report) -> None:
    """Measure round trips beside 50 tunnels of 1 MiB messages, from another address and from the same one."""
    count, rounds = (300, 1) if options.quick else (1000, ROUNDS)
    for row, address in (("canary", OTHER_ADDRESS), ("canary-same-address", SAME_ADDRESS)):
        with RelayProcess() as relay:
            (tunnel,) = open_tunnels(relay, 1, SAME_ADDRESS)
            bulk = open_tunnels(relay, BULK_TUNNELS, address)
            with Canary(tunnel) as canary, BulkTraffic(bulk, BULK_SIZE):
                times = canary.best_round_trips(count, rounds)
        report(_figures(row, times))


def _send(pipe: Pipe, clients: Sequence[Client], plaintexts: Sequence[Plaintext], batch: int) -> None:
    selector = selectors.DefaultSelector()
    unsent = {}
    for client in clients:
        client.sock.setblocking(False)
        selector.register(client.sock, selectors.EVENT_WRITE, client)
        unsent[client] = memoryview(client.seal_frames(plaintexts, batch))
    pipe.send("ready")
    while True:
        for key, _ in selector.select():
            client = key.data
            unsent[client] = unsent[client][client.sock.send(unsent[client]) :]
            if not unsent[client]:
                unsent[client] = memoryview(client.seal_frames(plaintexts, batch))


def _receive(pipe: Pipe, clients: Sequence[Client]) -> None:
    selector = selectors.DefaultSelector()
    for client in clients:
        client.sock.setblocking(False)
        selector.register(client.sock, selectors.EVENT_READ, client)
    buffer = bytearray(READ_SIZE)
    pipe.send("ready")
    while True:
        for key, _ in selector.select():
            if not key.data.sock.recv_into(buffer):
                raise ConnectionError("the relay closed a bulk tunnel")


def _echo(pipe: Pipe, client: Client, plaintexts: Sequence[Plaintext]) -> None:
    client.sock.setblocking(True)
    pipe.send("ready")
    for number in itertools.count():
        frame = _seal(client, plaintexts, number)
        _read_frame(client)
        client.sock.sendall(frame)


def _seal(client: Client, plaintexts: Sequence[Plaintext], number: int) -> bytearray:
    # A different plaintext each time, so that the size varies with the padding.
    return client.seal_frames([plaintexts[number % len(plaintexts)]], 1)


def _read_frame(client: Client) -> None:
    data = b""
    while len(data) < FRAME_LENGTH_SIZE + int.from_bytes(data[:FRAME_LENGTH_SIZE], "big"):
        part = client.sock.recv(READ_SIZE)
        if not part:
            raise ConnectionError("the relay closed the tunnel")
        data += part


def _quantile(times: Sequence[float], part: float) -> float:
    return times[min(len(times) - 1, int(len(times) * part))]


def _figures(row: str, times: Sequence[float]) -> Figures:
    return {"row": row, "p50_ms": _quantile(times, 0.5) * 1000, "p99_ms": _quantile(times, 0.99) * 1000}
