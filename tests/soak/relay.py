"""The relay of a soak: its resources before and after, as reported by itself and by the system."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.relay_log import Reason, is_failure
from tests.support.relay_process import RelayProcess, resident_bytes

MIB = 1 << 20
MAX_GROWTH = 32 * MIB  # resident bytes of one process: the buffers, and the allocator's reserve
PATIENCE = 60.0  # seconds for the relay to release ended connections
IDLE_PERIOD = 0.5  # seconds without using the processor, after which a process is ready

TOTALS = ("completed_handshakes", "bugs")
"""Figures of the state line that only grow."""


class SoakedRelay:
    """Watches one relay.

    Args:
        relay: started a moment ago.
    """

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        _wait_until(self._is_idle)  # workers still import their modules
        self._pids = relay.pids
        self._resources_before = self._resources()
        self._memory_before = [resident_bytes(pid) for pid in self._pids]

    def growth(self) -> int:
        """Return the growth, in resident bytes, of the process that has grown the most."""
        return max(resident_bytes(pid) - before for pid, before in zip(self._pids, self._memory_before))

    def faults(self) -> list[str]:
        """Return the faults while nodes are connected."""
        if not self.relay.alive:
            return [f"the relay ended with status {self.relay.process.returncode}"]
        if self.growth() > MAX_GROWTH:
            return [f"the relay grew by {self.growth() / MIB:.0f} MiB"]
        alarming = [
            line for line in list(self.relay.lines) if is_failure(line) or Reason.WORKER_ENDED in line
        ]
        return [f"the relay's log has {line!r}" for line in alarming[:3]]

    def faults_afterwards(self, connections: int, frozen: int) -> list[str]:
        """Return the faults after all nodes have left.

        Args:
            connections: how many there were.
            frozen: how many of them may have ended because their peer was silent.
        """
        faults = self.faults()
        if not self.relay.alive:
            return faults
        _wait_until(lambda: self._resources() == self._resources_before)
        if self._resources() != self._resources_before:
            faults.append(f"before: {self._resources_before}; after: {self._resources()}")
        state = self.relay.state()
        faults += [
            f"{n} connections: {why}" for why, n in state.ended.items() if not re.search(Reason.NORMAL, why)
        ]
        silent = sum(n for why, n in state.ended.items() if Reason.IDLE in why)
        if silent > frozen:
            faults.append(f"{silent} connections ended for silence, {frozen} were silent")
        if sum(state.ended.values()) != connections:
            faults.append(f"{connections} connections were made, {sum(state.ended.values())} have a reason")
        return faults

    def _is_idle(self) -> bool:
        before = self.relay.cpu_seconds
        time.sleep(IDLE_PERIOD)
        return self.relay.cpu_seconds == before and all(map(_has_selector, self.relay.pids))

    def _resources(self) -> tuple[dict[str, int], list[tuple[int, int]]]:
        # The state line's figures, and descriptors and threads of each process.
        figures = {name: n for name, n in self.relay.state().figures.items() if name not in TOTALS}
        return figures, [(_entries(pid, "fd"), _entries(pid, "task")) for pid in self._pids]


def _has_selector(pid: int) -> bool:
    return any("eventpoll" in str(each.readlink()) for each in Path(f"/proc/{pid}/fd").iterdir())


def _entries(pid: int, directory: str) -> int:
    return len(list(Path(f"/proc/{pid}/{directory}").iterdir()))


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
