"""Measure the round trips and the throughput of a tunnel whose two ends are in this program."""

from __future__ import annotations

import contextlib
import threading
import time
from functools import partial
from typing import NamedTuple

from offset_common.client import Tunnel
from offset_common.errors import OffsetError
from offset_common.threads import start_thread

ROUND_TRIPS = 200  # messages in each direction, at most
ROUND_TRIP_SIZE = 64  # bytes of each
ROUND_TRIP_SECONDS = 2.0  # seconds for all of them, at most
BULK_SIZE = 32 * 1024  # bytes of a message
BULK_SECONDS = 2.0  # seconds of the bulk transfer, at most
BULK_LIMIT = 32 * 1024 * 1024  # bytes of the bulk transfer, at most: the relay's owner pays for them


class RoundTrips(NamedTuple):
    """The number of round trips and percentiles of their times in seconds."""

    number: int
    p50: float
    p99: float


class Bulk(NamedTuple):
    """The bytes received in one direction, and the seconds that this took."""

    size: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes per second."""
        return self.size / self.seconds


def measure_round_trips(one: Tunnel, other: Tunnel, timeout: float) -> RoundTrips:
    """Send messages from one end to the other and back, one at a time.

    Args:
        one: sends first; the time is measured here.
        other: returns each message.
        timeout: seconds for each message.
    """
    times: list[float] = []
    end = time.perf_counter() + ROUND_TRIP_SECONDS
    message = bytes(ROUND_TRIP_SIZE)
    while len(times) < ROUND_TRIPS and (not times or time.perf_counter() < end):
        start = time.perf_counter()
        one.send(message, timeout)
        other.send(other.receive(timeout), timeout)
        one.receive(timeout)
        times.append(time.perf_counter() - start)
    times.sort()
    return RoundTrips(len(times), times[len(times) // 2], times[len(times) * 99 // 100])


def measure_bulk(sender: Tunnel, receiver: Tunnel, timeout: float) -> Bulk:
    """Send as fast as possible, up to BULK_SECONDS or BULK_LIMIT, and count the bytes received.

    At least one message is received, however slow this machine is.

    Args:
        sender: sends the messages; it is closed at the end.
        receiver: receives and counts them.
        timeout: seconds to wait for each message.
    """
    stop = threading.Event()
    start = time.perf_counter()
    size = 0
    thread = start_thread(partial(_keep_sending, sender, stop), "offset bulk sender")
    try:
        while not size or (size < BULK_LIMIT and time.perf_counter() - start < BULK_SECONDS):
            size += len(receiver.receive(timeout))
    finally:
        stop.set()
        seconds = time.perf_counter() - start
        sender.close(0)  # wakes a blocked send
        thread.join()
    return Bulk(size, seconds)


def _keep_sending(sender: Tunnel, stop: threading.Event) -> None:
    message = bytes(BULK_SIZE)
    sent = 0
    with contextlib.suppress(OffsetError):
        while sent < BULK_LIMIT and not stop.is_set():
            sender.send(message)
            sent += len(message)
