"""Lets many nodes use a relay for a long time, and checks that nothing is lost and nothing left behind.

Usage:
  tests.soak [options]

Run it as `python -m tests.soak`, or by `make soak`.

  --seconds N   How long the nodes do what they do [default: 600].
  --seed S      A number; what each node does, and all that is said, follows from it, though not the
                moment at which it happens. A new one where it is not given.
  --nodes N     How many [default: 200].
  --workers N   Of the relay [default: 1].
  -h, --help    Show this page.
  -V, --version  Show the version.

Status 0: every payload was checked at its destination (order, content, nothing twice), every end of a
connection had its reason, and the relay's descriptors, threads, registry and buffers are back where
they began. Status 1: a sentence says what is wrong, and the seed.
"""

from __future__ import annotations

import random
import re
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from offset_common import __version__
from offset_common.command_line import parse, run
from tests.end_to_end.relay_process import RelayProcess, write_identity
from tests.soak.relay import MIB, SoakedRelay
from tests.soak.town import Town

PROGRESS_INTERVAL = 5.0  # seconds
SHORTEST_WITH_EVERYTHING = 20.0  # seconds in which each of these happens at least once
HAPPENS = (
    "tunnels",
    "messages",
    "rejects",
    "hang-ups",
    "rekeys",
    "stalls",
    "drops",
    "vanishings",
    "leavings",
)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run one soak; return the exit status."""
    return run("soak", lambda: start(parse(__doc__, sys.argv[1:] if argv is None else argv, __version__)))


def start(arguments: dict[str, Any]) -> int:
    """Run the soak that the arguments describe; return the exit status."""
    seconds, size = float(arguments["--seconds"]), int(arguments["--nodes"])
    seed = int(arguments["--seed"] or random.SystemRandom().randrange(10**9))
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"soak: seed {seed}, {size} nodes, {seconds:g} s, workers {arguments['--workers']}", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        identity = write_identity(Path(directory))
        process = RelayProcess(identity, "127.0.0.1:0", ["--workers", arguments["--workers"]])
        try:
            faults = soak(process, seed, size, seconds)
        finally:
            process.process.kill()
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"soak: {'FAILED' if faults else 'passed'}, seed {seed}", flush=True)
    return 1 if faults else 0


def soak(process: RelayProcess, seed: int, size: int, seconds: float) -> list[str]:
    """Let the nodes live with a relay for so long; return what was wrong."""
    relay = SoakedRelay(process)
    town = Town(process.place(), seed, size)
    faults = _live(town, relay, seconds)
    if not faults:
        town.close()
        faults = town.ledger.faults
    if not faults:
        count = town.ledger.count
        faults = relay.faults_afterwards(count["connections"], count["connections frozen"])
        if seconds * size >= SHORTEST_WITH_EVERYTHING * 200:
            faults += [f"there were no {what}" for what in HAPPENS if not count[what]]
    print(_progress(town, relay, seconds))
    if not faults:
        print(f"  relay: {relay.processor_seconds():.1f} s of processor time, {_show(relay.state()[1])}")
        return relay.stop()
    _show_log(process, faults)
    return faults


def _show_log(process: RelayProcess, faults: list[str]) -> None:
    ports = re.findall(r"port (\d+)", " ".join(faults))
    about = [line for line in process.lines if any(f":{port} " in line for port in ports)]
    print("the end of the relay's log, and what it says about these connections:")
    print("\n".join([*process.lines[-10:], "", *about[-10:]]))


def _live(town: Town, relay: SoakedRelay, seconds: float) -> list[str]:
    began = time.monotonic()
    while not town.ledger.faults and (passed := time.monotonic() - began) < seconds:
        town.run(min(PROGRESS_INTERVAL, seconds - passed))
        print(_progress(town, relay, time.monotonic() - began), flush=True)
        faults = relay.faults_meanwhile()
        if faults:
            return faults
    return town.ledger.faults


def _progress(town: Town, relay: SoakedRelay, seconds: float) -> str:
    count = town.ledger.count
    kinds = ("rejects", "rekeys", "stalls", "hang-ups", "drops", "vanishings", "leavings", "listens anew")
    memory = f"{relay.growth() / MIB:+.1f} MiB" if relay.relay.alive else "gone"
    return (
        f"{seconds:5.0f} s: {sum(1 for _ in town.ends())} connections of {count['connections']}, "
        f"{count['tunnels']} tunnels, {count['messages']} messages, {count['bytes'] / 1e6:.0f} MB, "
        f"{', '.join(f'{count[kind]} {kind}' for kind in (*kinds, 'pauses', 'freezings'))}; relay {memory}"
    )


def _show(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())


if __name__ == "__main__":
    sys.exit(main())
