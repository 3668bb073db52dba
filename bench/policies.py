"""Rows: what a message costs with all of an operator's options, compared with a relay that has none.

Both relays run at once, and rounds through the two alternate. The ratio is the median over pairs of rounds.
"""

from __future__ import annotations

import contextlib
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bench.client import open_tunnels
from bench.encoding import make_plaintexts
from bench.options import Figures, Options, Report
from bench.processes import Child, free_port
from bench.relay_process import RelayProcess
from bench.status import scrape
from bench.tunnels import ONE_TUNNEL, Series, Work, message_count, relay_series
from offset_common.identity import Identity, encode_key

WORKS = [work for work in ONE_TUNNEL if work.name in ("64B", "64KiB")]
DENIED_KEYS = 100


def measure_policies(options: Options, report: Report) -> None:
    """Measure messages of 64 B and 64 KiB through one tunnel, with all options off and on."""
    for work in WORKS:
        with RelayProcess() as off, _with_all_options() as on:
            without, with_all = (_series(work, relay, options) for relay in (off, on))
            by_off = [with_all.run() / without.run() for _ in options.rounds()]
        report(_figures(f"{work.name}-off", without))
        report({**_figures(f"{work.name}-on", with_all), "cpu_by_off": statistics.median(by_off)})


def _figures(row: str, series: Series) -> Figures:
    return {"row": row, "rate": series.rate, "cpu_us": series.cpu * 1e6}


def _series(work: Work, relay: RelayProcess, options: Options) -> Series:
    plaintexts = make_plaintexts(work.encode, work.size, work.max_padding)
    count = message_count(plaintexts, options)
    return relay_series(relay, open_tunnels(relay, 1), plaintexts, count, options.verify)


@contextlib.contextmanager
def _with_all_options() -> Iterator[RelayProcess]:
    """Run a relay with limits far above what is used, and with a scraper of /metrics every second."""
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="offset-bench-") as name:
        access, usage = Path(name, "access.txt"), Path(name, "usage.db")
        keys = [encode_key(Identity.generate().public_key) for _ in range(DENIED_KEYS)]
        access.write_text("deny 192.0.2.0/24\n" + "".join(f"deny {key}\n" for key in keys))
        command = f"--status 127.0.0.1:{port} --log-format json --access {access} --usage {usage}"
        limits = "--rate 100G --rate-per-key 100G --quota 900T --quota-per-key 900T"
        with RelayProcess([*command.split(), *limits.split()]) as relay:
            scraper = Child(scrape, port)
            try:
                scraper.receive()
                yield relay
            finally:
                scraper.stop()
