"""Rows: messages through tunnels, beside the floor of the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

from bench.client import Tunnel, open_tunnels
from bench.encoding import Encoder, Plaintext, encode_as_own, encode_as_released, make_plaintexts, seal_frames
from bench.floor import OPENING_KEY, Floor
from bench.load import Load, Stream, run_load
from bench.options import Figures, Options, Report, SkippedError
from bench.relay_process import RelayProcess, relay_has_option
from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.constants import ENCRYPTION_OVERHEAD, MAX_PADDING_SENT

KIB = 1024
FULL_PADDING = 65535  # bytes: the most that released nodes put on a message
MANY = (1, 4, 64, 1000)  # tunnels at once
LEAST_EACH = (
    128  # messages through each of many tunnels: several turns of the relay, or fairness says nothing
)
WORKERS_TUNNELS = 4


class Work(NamedTuple):
    """What goes through a tunnel.

    Args:
        name: of the row.
        size: bytes of each payload.
        max_padding: the most bytes of padding.
        encode: how it is encoded.
    """

    name: str
    size: int
    max_padding: int
    encode: Encoder


SIZES = {"64B": 64, "1KiB": KIB, "16KiB": 16 * KIB, "64KiB": 64 * KIB, "256KiB": 256 * KIB}
ONE_TUNNEL = [
    *(Work(name, size, MAX_PADDING_SENT, encode_as_released) for name, size in SIZES.items()),
    Work("1KiB-full-padding", KIB, FULL_PADDING, encode_as_released),
    *(Work(f"{name}-own", size, MAX_PADDING_SENT, encode_as_own) for name, size in SIZES.items()),
]


class Series:
    """One load after the other through the same tunnels, or through the floor; the best of each figure."""

    def __init__(self, run: Callable[[], Load], messages: int) -> None:
        self._run = run
        self._messages = messages
        self.cpu = float("inf")  # seconds for each message
        self.rate = 0.0  # messages each second
        self.fairness = 0.0  # the slowest tunnel's rate, by the mean of all

    def run(self) -> None:
        """Run once more."""
        load = self._run()
        self.cpu = min(self.cpu, load.cpu / self._messages)
        self.rate = max(self.rate, self._messages / load.wall)
        rates = [1 / seconds for seconds in load.finished]
        self.fairness = max(self.fairness, min(rates) * len(rates) / sum(rates))


def measure_one_tunnel(work: Work, options: Options, report: Report) -> None:
    """Measure one tunnel with one kind of message."""
    plaintexts = make_plaintexts(work.encode, work.size, work.max_padding)
    count = _count(plaintexts, options)
    with RelayProcess() as relay, Floor() as floor:
        tunnels = open_tunnels(relay, 1)
        through_relay = relay_series(relay, tunnels, plaintexts, count, options.verify)
        through_floor = floor_series(floor, plaintexts, count)
        for _ in options.rounds():
            through_floor.run()
            through_relay.run()
    report(_figures(work.name, work.size, through_relay, through_floor))


def measure_many_tunnels(options: Options, report: Report) -> None:
    """Measure 1, 4, 64 and 1,000 tunnels of 1 KiB messages."""
    plaintexts = make_plaintexts(encode_as_released, KIB, MAX_PADDING_SENT)
    count = _count(plaintexts, options)
    with RelayProcess() as relay, Floor() as floor:
        through_floor = floor_series(floor, plaintexts, count)
        through_relay = {}
        for number in (MANY[0], MANY[-1]) if options.quick else MANY:
            tunnels = open_tunnels(relay, number)
            each = max(count // number, LEAST_EACH)
            through_relay[number] = relay_series(relay, tunnels, plaintexts, each, options.verify)
        for _ in options.rounds():
            through_floor.run()
            for series in through_relay.values():
                series.run()
    for number, series in through_relay.items():
        figures = _figures(f"tunnels-{number}", KIB, series, through_floor)
        figures["fairness"] = series.fairness
        figures["rate_by_one"] = series.rate / through_relay[1].rate
        report(figures)


def measure_workers(options: Options, report: Report) -> None:
    """Measure 4 tunnels of 64 B messages with one and with two worker processes."""
    if not relay_has_option("--workers"):
        raise SkippedError("strelay.py has no --workers")
    plaintexts = make_plaintexts(encode_as_released, 64, MAX_PADDING_SENT)
    each = _count(plaintexts, options) // WORKERS_TUNNELS
    series = {}
    with RelayProcess(["--workers", "1"]) as one, RelayProcess(["--workers", "2"]) as two, Floor() as floor:
        through_floor = floor_series(floor, plaintexts, each * WORKERS_TUNNELS)
        for number, relay in ((1, one), (2, two)):
            tunnels = open_tunnels(relay, WORKERS_TUNNELS)
            series[number] = relay_series(relay, tunnels, plaintexts, each, options.verify)
        for _ in options.rounds():
            through_floor.run()
            for one_series in series.values():
                one_series.run()
    for number, one_series in series.items():
        figures = _figures(f"workers-{number}", 64, one_series, through_floor)
        figures["rate_by_one"] = one_series.rate / series[1].rate
        report(figures)


def relay_series(
    relay: RelayProcess, tunnels: Sequence[Tunnel], plaintexts: Sequence[Plaintext], each: int, verify: bool
) -> Series:
    """Prepare loads of `each` messages through each tunnel; each load is sealed before its clock starts."""

    def run() -> Load:
        streams = []
        for tunnel in tunnels:
            tunnel.far.send_keepalive()
            tunnel.far.drain(keep=verify)
            frames = tunnel.near.seal_frames(plaintexts, each)
            check = checker(tunnel.far.connection, plaintexts, each)
            streams.append(Stream(tunnel.near.sock, tunnel.far.sock, frames, each, check))
        return run_load(streams, relay.cpu_seconds, verify)

    return Series(run, each * len(tunnels))


def floor_series(floor: Floor, plaintexts: Sequence[Plaintext], count: int) -> Series:
    """Prepare loads of `count` messages through the floor."""
    frames = seal_frames(OPENING_KEY, 0, plaintexts, count)
    stream = Stream(floor.sink, floor.source, frames, count, lambda received: None)
    return Series(lambda: run_load([stream], floor.cpu_seconds, verify=False), count)


def checker(connection: Connection, plaintexts: Sequence[Plaintext], count: int) -> Callable[[bytes], None]:
    """Make a check that the bytes a connection received are `count` messages, right and in order."""

    def check(received: bytes) -> None:
        connection.receive_data(received)
        number = 0
        while (event := connection.next_event(0.0)) is not None:
            assert isinstance(event, MessageReceived)
            if event.data != plaintexts[number % len(plaintexts)].payload:
                raise ValueError(f"message {number} came out wrong")
            number += 1
        if number != count:
            raise ValueError(f"{number} messages of {count} came out")

    return check


def _count(plaintexts: Sequence[Plaintext], options: Options) -> int:
    size = sum(len(plaintext.encoded) for plaintext in plaintexts) / len(plaintexts) + ENCRYPTION_OVERHEAD
    return min(options.messages_at_once, int(options.bytes_at_once / size))


def _figures(name: str, size: int, relay: Series, floor: Series) -> Figures:
    return {
        "row": name,
        "rate": relay.rate,
        "megabytes": relay.rate * size / 1e6,
        "cpu_us": relay.cpu * 1e6,
        "floor_us": floor.cpu * 1e6,
        "ratio": relay.cpu / floor.cpu,
    }
