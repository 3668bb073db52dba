"""A relay that is attacked, and what must hold meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from tests.attack.crowd import Crowd
from tests.end_to_end.peer import Node, Place
from tests.end_to_end.relay_process import ROOT, RelayProcess, write_identity

MIB = 1024 * 1024
MOST_GROWTH = 32 * MIB  # bytes of resident memory that an attack may cost
SLOWEST_CANARY = 1.0  # seconds
TICKS = os.sysconf("SC_CLK_TCK")


class Siege:
    """A relay as a process of its own, and the watch.

    Args:
        directory: for its identity.
        options: of its command line.
        prefix: what runs it.
        mode: of the identity file.
    """

    def __init__(
        self, directory: Path, options: Sequence[str] = (), prefix: Sequence[str] = (), mode: int = 0o600
    ) -> None:
        self.identity = write_identity(directory)
        self.identity.chmod(mode)
        options = [*os.environ.get("ATTACK_OPTIONS", "").split(), *options]
        self.relay = RelayProcess(self.identity, "127.0.0.1:0", options, prefix)
        self.place: Place = self.relay.place()
        self.baseline = self.relay.memory
        self.report: dict[str, Any] = {}
        self.stops_in_order = True  # and has no bug on the way
        self.canaries_that_may_fail = 0  # but the last, which is sent when the attack is over
        self._crowds: list[Crowd] = []
        self._nodes: list[Node] = []
        self._watch: Optional[subprocess.Popen[str]] = None

    def begin(self) -> Siege:
        """Begin to watch: a tunnel stands, and the first canary was served."""
        host, port = self.place.address
        arguments = [
            host,
            str(port),
            self.place.public_key.hex(),
            str(self.relay.process.pid),
            str(self.baseline),
        ]
        self._watch = subprocess.Popen(
            [sys.executable, "-m", "tests.attack.watch", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._watch.stdout is not None
        assert self._watch.stdout.readline(), "the watch did not begin"
        return self

    def crowd(self) -> Crowd:
        """Return a new crowd; it leaves at the end."""
        self._crowds.append(Crowd(self.place))
        return self._crowds[-1]

    def node(self, original: bool = False) -> Node:
        """Return a new node; its connections are closed at the end."""
        self._nodes.append(Node(self.place, original))
        return self._nodes[-1]

    def end_watch(self, crowd_may_run: bool = False) -> dict[str, Any]:
        """Let the watch send its last canary, and check what it saw; the attackers may still be there."""
        assert self._watch is not None
        watch, self._watch = self._watch, None
        out, _ = watch.communicate("", 30.0)
        self.report = json.loads(out.splitlines()[-1])
        self._check()
        return self.report

    def _check(self) -> None:
        report, log = self.report, "\n".join(self.relay.lines[-40:])
        assert self.relay.alive, log
        faults = report["canary_faults"]
        assert len(faults) <= self.canaries_that_may_fail, f"{faults[:5]}\n{log}"
        assert not any(each.startswith(f"canary {len(report['canaries'])} ") for each in faults), "after it"
        assert max(report["canaries"]) < SLOWEST_CANARY, sorted(report["canaries"])[-5:]
        assert not report["tunnel_fault"], f"{report['tunnel_fault']}\n{log}"
        assert report["memory_growth"] < MOST_GROWTH, f"{report['memory_growth'] / MIB:.1f} MiB"
        if os.environ.get("ATTACK_FIGURES"):
            self._show_figures()

    def _show_figures(self) -> None:
        trips = sorted(self.report["round_trips"])
        canaries = self.report["canaries"]
        print(
            f"\n  {len(canaries)} canaries, slowest {max(canaries) * 1000:.0f} ms; "
            f"{len(trips)} round trips, p99 {self.p99 * 1000:.1f} ms, slowest {trips[-1] * 1000:.0f} ms; "
            f"memory +{self.report['memory_growth'] / MIB:.1f} MiB"
        )

    @property
    def p99(self) -> float:
        """Seconds within which 99 % of the round trips in the standing tunnel were."""
        trips = sorted(self.report["round_trips"])
        return float(trips[len(trips) * 99 // 100])

    def processor_seconds(self) -> float:
        """Return the seconds of processor time that the relay has used."""
        fields = Path(f"/proc/{self.relay.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def descriptors(self) -> int:
        """Return how many descriptors the relay has open."""
        return len(list(Path(f"/proc/{self.relay.process.pid}/fd").iterdir()))

    def count_lines(self, pattern: str) -> int:
        """Return how many lines of its log match."""
        return sum(1 for line in self.relay.lines if re.search(pattern, line))

    def state(self) -> dict[str, int]:
        """Return what the relay says it has."""
        before = self.count_lines("^state: ")
        self.relay.process.send_signal(signal.SIGUSR1)
        self.relay.wait_for_line("^state: ", before + 1)
        line = [each for each in self.relay.lines if each.startswith("state: ")][-1]
        counts = re.split("; since the start: |; ", line[len("state: ") :])
        return {name: int(count) for name, _, count in (each.rpartition(" ") for each in counts)}

    def finish(self) -> None:
        """Let everybody leave, check the last canary, stop the relay in order."""
        try:
            if self._watch is not None:
                self.end_watch()
        finally:
            for crowd in self._crowds:
                crowd.leave()
            for node in self._nodes:
                node.__exit__()
            if self.stops_in_order:
                self.relay.end()

    def give_up_watch(self) -> None:
        """Watch no more: what comes ends the relay."""
        if self._watch is not None:
            self._watch.kill()
            self._watch.communicate()
            self._watch = None

    def give_up(self) -> None:
        """End every process."""
        self.give_up_watch()
        if self.relay.alive:
            self.relay.process.kill()
            self.relay.process.wait(5.0)
