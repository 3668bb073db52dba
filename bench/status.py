"""Rows: what watching a relay costs a small message, beside many idle listeners.

Rounds with and without a scraper alternate, because other programs on the machine disturb both.
"""

from __future__ import annotations

import http.client
import json
import statistics
import time
from multiprocessing.connection import Connection as Pipe
from typing import Optional

from bench.canary import Canary
from bench.client import Client, open_tunnels
from bench.idle import Crowd, connect_listener
from bench.options import Figures, Options, Report, SkippedError
from bench.processes import Child, free_port
from bench.relay_process import RelayProcess
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.errors import OperatorError

LISTENERS, QUICK_LISTENERS = 10_000, 1000
ROUNDS, QUICK_ROUNDS = 12, 2
ROUND_SECONDS = 4.0
PAUSE = 0.001  # seconds between two messages
SETTLE = 0.5  # seconds at the start of a round
SCRAPE_INTERVAL = 1.0  # seconds
SPARE_DESCRIPTORS = 100
KEEPALIVE_EVERY = 1000  # new listeners
FOREVER = 1e5  # seconds
CANARY_ADDRESS = "127.0.0.250"


def measure_status(options: Options, report: Report) -> None:
    """Measure round trips while nobody watches, and while /metrics is scraped every second."""
    count, rounds = (QUICK_LISTENERS, QUICK_ROUNDS) if options.quick else (LISTENERS, ROUNDS)
    if raise_descriptor_limit() * 4 // 5 < count + SPARE_DESCRIPTORS:
        raise SkippedError("the limit of open files (ulimit -n) is too low; raise it")
    port = free_port()
    with RelayProcess(["--status", f"127.0.0.1:{port}"]) as relay:
        crowd = Child(_stay_connected, relay, count)
        try:
            crowd.receive()
            (tunnel,) = open_tunnels(relay, 1, CANARY_ADDRESS)
            with Canary(tunnel) as canary:
                pairs = [
                    (_measure(relay, canary, None), _measure(relay, canary, port)) for _ in range(rounds)
                ]
            if _connections(port) < count:
                raise OperatorError("the relay closed idle listeners; this machine is too busy")
        finally:
            crowd.stop()
    quiet, scraped = (_median(f"status-{name}", each) for name, each in zip(("off", "on"), zip(*pairs)))
    added = statistics.median(float(on["p99_ms"]) - float(off["p99_ms"]) for off, on in pairs)
    report(quiet)
    report({**scraped, "added_p99_ms": added})


def _measure(relay: RelayProcess, canary: Canary, port: Optional[int]) -> Figures:
    scraper = None if port is None else Child(scrape, port)
    try:
        if scraper is not None:
            scraper.receive()
        time.sleep(SETTLE)
        cpu_before = relay.cpu_seconds()
        times = canary.paced_round_trips(ROUND_SECONDS, PAUSE)
        cpu = relay.cpu_seconds() - cpu_before
    finally:
        if scraper is not None:
            scraper.stop()
    p50, p99 = times[len(times) // 2], times[len(times) * 99 // 100]
    return {"p50_ms": p50 * 1000, "p99_ms": p99 * 1000, "cpu_ms": cpu * 1000 / ROUND_SECONDS}


def _median(row: str, rounds: tuple[Figures, ...]) -> Figures:
    """Return the median of each figure of some rounds."""
    return {
        "row": row,
        **{name: statistics.median(float(figures[name]) for figures in rounds) for name in rounds[0]},
    }


def _stay_connected(pipe: Pipe, relay: RelayProcess, count: int) -> None:
    clients: list[Client] = []
    for number in range(count):
        clients.append(connect_listener(relay, number))
        if len(clients) % KEEPALIVE_EVERY == 0:
            for client in clients:  # otherwise the first are closed before the last are connected
                client.send_keepalive()
    pipe.send("ready")
    Crowd(clients).run(FOREVER)


def scrape(pipe: Pipe, port: int) -> None:
    """Read /metrics every second, and report each time."""
    while True:
        begin = time.monotonic()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        response.read()
        connection.close()
        if response.status != http.client.OK:
            raise ConnectionError(f"/metrics answers {response.status}")
        pipe.send("scraped")
        time.sleep(max(0.0, begin + SCRAPE_INTERVAL - time.monotonic()))


def _connections(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/status.json")
    used: int = json.loads(connection.getresponse().read())["connections"]
    connection.close()
    return used
