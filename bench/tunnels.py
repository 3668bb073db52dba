"""Rows: messages through tunnels, compared with the floor of the same bytes."""

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
FULL_PADDING = 65535  # bytes: the maximum that released nodes add to a message
TUNNEL_COUNTS = (1, 4, 64, 1000)
MIN_MESSAGES = 128  # through each tunnel, which takes several rounds of the relay: fairness is about rounds
WORKER_TUNNELS = 4


class Work(NamedTuple):
    """The messages of one row.

    Args:
        name: the name of the row.
        size: the size of each payload, in bytes.
        max_padding: the maximum size of the padding, in bytes.
        encode: the encoder.
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
    """Runs the same load several times, through the relay or the floor, and keeps the best of each figure."""

    def __init__(self, run: Callable[[], Load], messages: int) -> None:
        self._run = run
        self._messages = messages
        self.cpu = float("inf")  # seconds per message
        self.rate = 0.0  # messages per second
        self.fairness = 0.0  # the rate of the slowest tunnel, divided by the mean of all

    def run(self) -> float:
        """Run the load once; return its CPU time for a message, in seconds."""
        load = self._run()
        cpu = load.cpu / self._messages
        self.cpu = min(self.cpu, cpu)
        self.rate = max(self.rate, self._messages / load.wall)
        rates = [1 / seconds for seconds in load.finished]
        self.fairness = max(self.fairness, min(rates) * len(rates) / sum(rates))
        return cpu


def measure_one_tunnel(work: Work, options: Options, report: Report) -> None:
    """Measure one kind of message through one tunnel."""
    plaintexts = make_plaintexts(work.encode, work.size, work.max_padding)
    count = message_count(plaintexts, options)
    with RelayProcess() as relay, Floor() as floor:
        tunnels = open_tunnels(relay, 1)
        through_relay = relay_series(relay, tunnels, plaintexts, count, options.verify)
        through_floor = floor_series(floor, plaintexts, count)
        for _ in options.rounds():
            through_floor.run()
            through_relay.run()
    report(_figures(work.name, work.size, through_relay, through_floor))


def measure_many_tunnels(options: Options, report: Report) -> None:
    """Measure 1 KiB messages through 1, 4, 64 and 1,000 tunnels."""
    plaintexts = make_plaintexts(encode_as_released, KIB, MAX_PADDING_SENT)
    count = message_count(plaintexts, options)
    with RelayProcess() as relay, Floor() as floor:
        through_floor = floor_series(floor, plaintexts, count)
        through_relay = {}
        for number in (TUNNEL_COUNTS[0], TUNNEL_COUNTS[-1]) if options.quick else TUNNEL_COUNTS:
            tunnels = open_tunnels(relay, number)
            each = max(count // number, MIN_MESSAGES)
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
    """Measure 64 B messages through 4 tunnels with one and with two worker processes."""
    if not relay_has_option("--workers"):
        raise SkippedError("strelay.py has no --workers")
    plaintexts = make_plaintexts(encode_as_released, 64, MAX_PADDING_SENT)
    each = message_count(plaintexts, options) // WORKER_TUNNELS
    series = {}
    with RelayProcess(["--workers", "1"]) as one, RelayProcess(["--workers", "2"]) as two, Floor() as floor:
        through_floor = floor_series(floor, plaintexts, each * WORKER_TUNNELS)
        for number, relay in ((1, one), (2, two)):
            tunnels = open_tunnels(relay, WORKER_TUNNELS)
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
    """Return a series that sends `each` messages, sealed before the clock starts, through each tunnel."""

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
    """Return a series that sends `count` messages through the floor."""
    frames = seal_frames(OPENING_KEY, 0, plaintexts, count)
    stream = Stream(floor.input, floor.output, frames, count, lambda received: None)
    return Series(lambda: run_load([stream], floor.cpu_seconds, verify=False), count)


def checker(connection: Connection, plaintexts: Sequence[Plaintext], count: int) -> Callable[[bytes], None]:
    """Return a check that received bytes are `count` unchanged messages in order."""

    def check(received: bytes) -> None:
        connection.receive_data(received)
        number = 0
        while (event := connection.next_event(0.0)) is not None:
            assert isinstance(event, MessageReceived)
            if event.data != plaintexts[number % len(plaintexts)].payload:
                raise ValueError(f"message {number} was changed")
            number += 1
        if number != count:
            raise ValueError(f"{number} of {count} messages arrived")

    return check


def message_count(plaintexts: Sequence[Plaintext], options: Options) -> int:
    """Return the number of messages in one load."""
    size = sum(len(plaintext.encoded) for plaintext in plaintexts) / len(plaintexts) + ENCRYPTION_OVERHEAD
    return min(options.max_messages, int(options.load_size / size))


def _figures(name: str, size: int, relay: Series, floor: Series) -> Figures:
    return {
        "row": name,
        "rate": relay.rate,
        "megabytes": relay.rate * size / 1e6,
        "cpu_us": relay.cpu * 1e6,
        "floor_us": floor.cpu * 1e6,
        "ratio": relay.cpu / floor.cpu,
    }
