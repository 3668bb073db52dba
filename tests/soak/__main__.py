"""Lets many nodes use a relay for a long time, and checks that nothing is lost and no resources leak.

Usage:
  tests.soak [options]

Run it as `python -m tests.soak`, or with `make soak`.

  --seconds N   How long the nodes use the relay [default: 600].
  --seed S      The random seed for the actions and messages of the nodes, but not for their timing; a new
                one by default.
  --nodes N     How many nodes [default: 200].
  --workers N   Worker processes of the relay [default: 1].
  -h, --help    Show this page.
  -V, --version  Show the version.

Status 0: every payload arrived once and in order, every connection ended for an expected reason, and the
relay's descriptors, threads, registry entries and buffers are the same as before. Status 1: a check failed;
the output shows it, and the seed.
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
from tests.soak.relay import MIB, SoakedRelay
from tests.soak.simulation import Simulation
from tests.support.relay_process import RelayProcess, write_identity

PROGRESS_INTERVAL = 5.0  # seconds
EVERYTHING_HAPPENS = 4000.0  # seconds times nodes in which each of these happens
ACTIONS = (
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
RARE_ACTIONS = ("listens anew", "pauses", "freezings")


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
        relay = RelayProcess(write_identity(Path(directory)), options=["--workers", arguments["--workers"]])
        try:
            faults = soak(relay, seed, size, seconds)
        finally:
            relay.kill()
    for fault in faults:
        print(f"WRONG: {fault}")
    print(f"soak: {'FAILED' if faults else 'passed'}, seed {seed}", flush=True)
    return 1 if faults else 0


def soak(process: RelayProcess, seed: int, size: int, seconds: float) -> list[str]:
    """Run `size` simulated nodes against a relay for that many seconds; return the faults."""
    simulation = Simulation(process.endpoint(), seed, size)
    try:
        return _soak(process, simulation, seconds)
    finally:
        simulation.release()


def _soak(process: RelayProcess, simulation: Simulation, seconds: float) -> list[str]:
    relay = SoakedRelay(process)
    count = simulation.ledger.count
    faults = _run(simulation, relay, seconds)
    if not faults:
        simulation.close()
        faults = simulation.ledger.faults
    if not faults:
        faults = relay.faults_afterwards(count["connections"], count["connections frozen"])
        if seconds * len(simulation.nodes) >= EVERYTHING_HAPPENS:
            faults += [f"there were no {action}" for action in ACTIONS if not count[action]]
    print(_progress(simulation, relay, seconds))
    if faults:
        _print_log(process, faults)
        return faults
    print(f"  relay: {process.cpu_seconds:.1f} s of processor time, ended: {process.state().ended}")
    status = process.stop()
    return [f"SIGTERM ended the relay with status {status}"] if status else process.failures


def _run(simulation: Simulation, relay: SoakedRelay, seconds: float) -> list[str]:
    start = time.monotonic()
    while not simulation.ledger.faults and (passed := time.monotonic() - start) < seconds:
        simulation.run(min(PROGRESS_INTERVAL, seconds - passed))
        print(_progress(simulation, relay, time.monotonic() - start), flush=True)
        faults = relay.faults()
        if faults:
            return faults
    return simulation.ledger.faults


def _progress(simulation: Simulation, relay: SoakedRelay, seconds: float) -> str:
    count = simulation.ledger.count
    actions = ", ".join(f"{count[action]} {action}" for action in (*ACTIONS, *RARE_ACTIONS))
    memory = f"{relay.growth() / MIB:+.1f} MiB" if relay.relay.alive else "gone"
    return (
        f"{seconds:5.0f} s: {len(list(simulation.connections()))} connections of {count['connections']}, "
        f"{count['bytes'] / 1e6:.0f} MB, {actions}; relay {memory}"
    )


def _print_log(process: RelayProcess, faults: list[str]) -> None:
    ports = re.findall(r"port (\d+)", " ".join(faults))
    about = [line for line in process.lines if any(f":{port} " in line for port in ports)]
    print("the end of the relay's log, and its lines about these connections:")
    print("\n".join([*process.lines[-10:], "", *about[-10:]]))


if __name__ == "__main__":
    sys.exit(main())
