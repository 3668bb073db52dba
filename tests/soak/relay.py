"""The relay of a soak: what it has before and after, as it says itself and as the system sees it."""

from __future__ import annotations

import re
import signal
import time
from pathlib import Path
from typing import Callable

from offset_common.relay.reasons import CloseReason

from tests.end_to_end.relay_process import RelayProcess

MIB = 1 << 20
MOST_GROWTH = 32 * MIB  # bytes of resident memory of one process: the buffers, and what the system keeps
PATIENCE = 15.0  # seconds in which what is over must be forgotten
IDLE_PERIOD = 0.5  # seconds without using the processor, after which a process is ready

NEVER = (
    CloseReason.PROTOCOL_ERROR,
    CloseReason.OLD_PEER,
    CloseReason.NOT_OFFSET,
    CloseReason.HANDSHAKE_TIMEOUT,
    CloseReason.INIT_TIMEOUT,
    CloseReason.STALLED,
    CloseReason.GAVE_WAY,
    CloseReason.LIMIT_TOTAL,
    CloseReason.LIMIT_ADDRESS,
    CloseReason.LIMIT_KEY,
    CloseReason.LIMIT_WAITING,
    CloseReason.LIMIT_TUNNELS,
    CloseReason.LIMIT_BUFFERS,
    CloseReason.NO_MEMORY,
    CloseReason.WORKER_ENDED,
    CloseReason.SHUTDOWN,
    CloseReason.BUG,
)
"""Reasons for which nothing ends here: these nodes are right in all they do, and within every limit."""

Figures = dict[str, int]


class SoakedRelay:
    """Watches one relay process.

    Args:
        relay: started a moment ago.
    """

    def __init__(self, relay: RelayProcess) -> None:
        self.relay = relay
        self._processes = [relay.process.pid, *_children(relay.process.pid)]
        _wait_until(self._is_idle)  # workers still load what they need
        self.began, _ = self.state()
        self.resources_began = self._resources()
        self.memory_began = self.memory()

    def memory(self) -> list[int]:
        """Return the resident bytes of each of its processes."""
        return [_resident(pid) for pid in self._processes]

    def growth(self) -> int:
        """Return by how many resident bytes that process has grown which has grown most."""
        return max(now - before for now, before in zip(self.memory(), self.memory_began))

    def processor_seconds(self) -> float:
        """Return the seconds of processor time that it has used."""
        fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in self._processes]
        return sum(int(each[11]) + int(each[12]) for each in fields) / 100

    def state(self) -> tuple[Figures, Figures]:
        """Return what the relay says it has, and what there was since its start."""
        lines = self.relay.lines
        before = sum(1 for line in lines if line.startswith("state: "))
        self.relay.process.send_signal(signal.SIGUSR1)
        self.relay.wait_for_line("^state: ", before + 1)
        line = [each for each in lines if each.startswith("state: ")][-1]
        now, _, since = line[len("state: ") :].partition("; since the start: ")
        return _figures(now), _figures(since)

    def faults_meanwhile(self) -> list[str]:
        """Return what is wrong with it while nodes are there."""
        if not self.relay.alive:
            return [f"the relay ended with status {self.relay.process.returncode}"]
        if self.growth() > MOST_GROWTH:
            return [f"the relay grew by {self.growth() / MIB:.0f} MiB"]
        return [f"the relay's log has {line!r}" for line in self.relay.lines if _is_alarming(line)][:3]

    def faults_afterwards(self, connections: int, frozen: int) -> list[str]:
        """Return what is left, after all nodes have left, that was not there before they came.

        Args:
            connections: how many there were.
            frozen: how many of them may have ended because their peer was silent.
        """
        faults = self.faults_meanwhile()
        if not self.relay.alive:
            return faults
        _wait_until(lambda: self.state()[0] == self.began and self._resources() == self.resources_began)
        now, since = self.state()
        faults += [
            f"{name}: {self.began.get(name, 0)} before, {now.get(name, 0)} after"
            for name in sorted({*self.began, *now})
            if self.began.get(name, 0) != now.get(name, 0)
        ]
        if self._resources() != self.resources_began:
            faults.append(
                f"descriptors and threads: {self.resources_began} before, {self._resources()} after"
            )
        faults += [
            f"{since[each.value]} connections: {each.value}" for each in NEVER if since.get(each.value)
        ]
        if since.get(CloseReason.IDLE.value, 0) > frozen:
            faults.append(
                f"{since[CloseReason.IDLE.value]} connections ended for silence, {frozen} were silent"
            )
        if since.get("bugs"):
            faults.append(f"{since['bugs']} bugs")
        ended = sum(since.get(each.value, 0) for each in CloseReason)
        if ended != connections:
            faults.append(f"{connections} connections were made, {ended} ends have a reason")
        return faults

    def stop(self) -> list[str]:
        """End it in order; return what was wrong with that."""
        status = self.relay.stop()
        faults = [f"SIGTERM ended the relay with status {status}"] if status else []
        return (
            faults + [f"the relay's log has {line!r}" for line in self.relay.lines if _is_alarming(line)][:3]
        )

    def _is_idle(self) -> bool:
        before = self.processor_seconds()
        time.sleep(IDLE_PERIOD)
        return self.processor_seconds() == before

    def _resources(self) -> list[tuple[int, int]]:
        # Of each process: descriptors and threads.
        return [(_entries(pid, "fd"), _entries(pid, "task")) for pid in self._processes]


def _figures(text: str) -> Figures:
    return {name: int(count) for name, _, count in (each.rpartition(" ") for each in text.split("; "))}


def _is_alarming(line: str) -> bool:
    return "a bug of" in line or "Traceback" in line or "worker process ended" in line


def _children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return [int(each) for task in tasks for each in (task / "children").read_text().split()]


def _entries(pid: int, directory: str) -> int:
    return len(list(Path(f"/proc/{pid}/{directory}").iterdir()))


def _resident(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) * 1024 if found else 0


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.5)
