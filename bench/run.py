"""Measure groups of rows, print them, and save them."""

from __future__ import annotations

import functools
import json
import os
import platform
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any, Callable

import cryptography

from bench.canary import measure_canary, measure_round_trip
from bench.encoding import encode_as_released
from bench.handshakes import measure_handshakes
from bench.idle import measure_idle
from bench.options import Figures, Options, Report, SkippedError
from bench.policies import measure_policies
from bench.report import NAME_WIDTH, format_row
from bench.status import measure_status
from bench.targets import CI_ALLOWANCE, missed
from bench.tunnels import ONE_TUNNEL, measure_many_tunnels, measure_one_tunnel, measure_workers
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.errors import OperatorError, UsageError

Measure = Callable[[Options, Report], None]

MEASURES: dict[str, Measure] = {
    **{work.name: functools.partial(measure_one_tunnel, work) for work in ONE_TUNNEL},
    "tunnels": measure_many_tunnels,
    "handshakes": measure_handshakes,
    "round-trip": measure_round_trip,
    "canary": measure_canary,
    "idle-1000": functools.partial(measure_idle, 1000),
    "idle-10000": functools.partial(measure_idle, 10_000),
    "status": measure_status,
    "policies": measure_policies,
    "workers": measure_workers,
}
"""The groups of rows, in the order of the table."""
MAX_ATTEMPTS = 3  # to measure a group with --check
QUICK = [
    *("64B", "1KiB", "16KiB", "64KiB", "1KiB-full-padding", "1KiB-own"),
    *("tunnels", "handshakes", "round-trip", "idle-1000"),
]


def bench(arguments: dict[str, Any]) -> int:
    """Measure the groups that the arguments name; return the exit status."""
    if arguments["--list"]:
        print("\n".join(MEASURES))
        return 0
    names = arguments["GROUP"] or (QUICK if arguments["--quick"] else list(MEASURES))
    for name in names:
        if name not in MEASURES:
            raise UsageError(f"unknown group {name!r}; the groups are {', '.join(MEASURES)}")
    encode_as_released(b"", b"")  # fails now if pycapnp is missing
    raise_descriptor_limit()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # ends the relay too
    options = Options(arguments["--quick"], arguments["--verify"])
    rows, failures = _measure(names, options, arguments["--json"] == "-", arguments["--check"])
    _write(arguments, rows)
    for line in failures:
        print(line, file=sys.stderr)
    return 1 if failures else 0


def _measure(
    names: list[str], options: Options, silent: bool, check: bool
) -> tuple[list[Figures], list[str]]:
    """Measure one group after the other; return all rows, and a line for each failure."""
    rows: list[Figures] = []
    failures: list[str] = []
    for number, name in enumerate(names):
        begin = time.monotonic()
        _progress(f"{number + 1}/{len(names)} {name} ...")
        # Other programs on the machine only make figures worse, so a missed target gets another attempt.
        for _ in range(MAX_ATTEMPTS if check else 1):
            measured, failed = _measure_group(name, options, check)
            if not failed:
                break
        rows += measured
        failures += failed
        if not silent:
            for row in measured:
                print(f"{_eraser()}{format_row(row)}", flush=True)
        _progress(f"{name} took {time.monotonic() - begin:.1f} s")
    sys.stderr.write(_eraser())
    return rows, failures


def _measure_group(name: str, options: Options, check: bool) -> tuple[list[Figures], list[str]]:
    """Measure one group; return its rows, and a line for each failure."""
    rows: list[Figures] = []
    try:
        MEASURES[name](options, rows.append)
    except SkippedError as error:
        print(f"{_eraser()}{name:<{NAME_WIDTH}} skipped: {error}", file=sys.stderr, flush=True)
    except (OperatorError, OSError) as error:
        print(f"{_eraser()}{name:<{NAME_WIDTH}} failed", file=sys.stderr, flush=True)
        return rows, [f"{name}: {error}"]
    return rows, missed(rows, CI_ALLOWANCE) if check else []


def _write(arguments: dict[str, Any], rows: list[Figures]) -> None:
    if not arguments["--json"]:
        return
    date = time.strftime("%Y-%m-%d", time.gmtime())
    text = json.dumps({"date": date, "machine": _machine(), "rows": rows}, indent=2)
    if arguments["--json"] == "-":
        print(text)
    else:
        Path(arguments["--json"]).write_text(text + "\n")


def _machine() -> dict[str, object]:
    return {
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
    }


def _processor() -> str:
    names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return names[0] if names else platform.machine()


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"{_eraser()}{text}")
        sys.stderr.flush()


def _eraser() -> str:
    return "\r\033[K" if sys.stderr.isatty() else ""
