"""A worker process with rates and volumes: applies its part of the rates, and reports what it reads."""

from __future__ import annotations

import contextlib
import sys
from typing import Optional

from offset_common.policy.rates import SMALLEST_READ, EndRate, Rates
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.policy import Meter
from offset_common.relay.sessions.tunnel import Tunnels
from offset_common.relay.workers.process import Worker, prepare

REPORT_INTERVAL = 1.0  # seconds
ENDS_IN_REPORT = 1000  # so that a report is small enough for a datagram

NO_RATE = "-"


def program(rate: Optional[float], rate_per_key: Optional[float]) -> list[str]:
    """Return the module that a worker process runs, and the arguments for these rates."""
    rates = (rate, rate_per_key)
    return [
        "offset_common.policy.metered_worker",
        *(NO_RATE if each is None else str(each) for each in rates),
    ]


class _EndMeter:
    """Applies the rate of a tunnel end, and counts its bytes for the next report."""

    __slots__ = ("_counts", "_number", "_rate")

    def __init__(self, counts: dict[int, int], number: int, rate: EndRate) -> None:
        self._counts = counts
        self._number = number
        self._rate = rate

    def allow(self, most: int, least: int = SMALLEST_READ) -> int:
        """Return how many bytes may be read now, up to `most`; 0 if fewer than `least` are allowed."""
        return self._rate.allow(most, least)

    def count(self, size: int) -> None:
        """Count bytes that were read."""
        self._rate.count(size)
        if size:
            self._counts[self._number] = self._counts.get(self._number, 0) + size

    def end(self) -> None:
        """Return the bytes that were allowed but not read: the tunnel has ended."""
        self._rate.end()


class MeteredWorker(Worker):
    """A worker whose tunnels have meters."""

    def begin_metering(self, rate: Optional[float], rate_per_key: Optional[float]) -> None:
        """Start applying these rates, and reporting what is read."""
        loop = self.loop
        self._rates = Rates(lambda: loop.now, rate, rate_per_key)
        self._tunnels = Tunnels(self._meter)
        self._counts: dict[int, int] = {}  # bytes by number of the connection, since the last report
        self._next_report_of_counts = loop.now + REPORT_INTERVAL
        loop.add_periodic(self._rates.resume_waiting, self._rates.next_time)
        loop.add_periodic(self._report_counts, lambda: self._next_report_of_counts)

    def _meter(self, source: SocketConnection, sink_key: bytes) -> Meter:
        rate = self._rates.end(source.address.prefix, source.key, sink_key, source.resume_reading)
        return _EndMeter(self._counts, self.numbers[source], rate)

    def _connection_closed(self, connection: SocketConnection, reason: CloseReason, detail: str) -> None:
        number = self.numbers[connection]
        size = self._counts.pop(number, 0)
        if size:
            self.report(moved=[[number, size]])
        super()._connection_closed(connection, reason, detail)

    def _report_counts(self) -> None:
        if self.loop.now < self._next_report_of_counts:
            return
        self._next_report_of_counts = self.loop.now + REPORT_INTERVAL
        counts = list(self._counts.items())
        self._counts.clear()
        for at in range(0, len(counts), ENDS_IN_REPORT):
            self.report(moved=counts[at : at + ENDS_IN_REPORT])


def main(arguments: list[str]) -> int:
    """Serve the front process; arguments: those of any worker, then the two rates."""
    worker = MeteredWorker(*prepare(arguments))
    rate, rate_per_key = (None if each == NO_RATE else float(each) for each in arguments[3:5])
    worker.begin_metering(rate, rate_per_key)
    with contextlib.suppress(ConnectionError):
        worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
