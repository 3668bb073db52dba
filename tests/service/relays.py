"""A relay process that hands over to successors."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess

STARTS = r"^upgrade started\b"
SERVES = r"^upgraded: pid=(\d+)\b"
FAILED = "not upgraded: "


class UpgradingRelay(RelayProcess):
    """A relay whose process id changes with each upgrade."""

    @property
    def all_pids(self) -> list[int]:
        """The process ids of the first relay and of its successors, oldest first."""
        found = [re.search(SERVES, line) for line in list(self.lines)]
        return [self.process.pid, *(int(each[1]) for each in found if each is not None)]

    @property
    def pid(self) -> int:
        """Return the process id of the relay that serves."""
        return self.all_pids[-1]

    def signal(self, number: int) -> None:
        """Send a signal to the relay that serves."""
        os.kill(self.pid, number)

    def upgrade(self) -> int:
        """Upgrade it in place; return the process id of the relay before."""
        before = self.pid
        count = self.count_lines(SERVES)
        ready = self.count_lines("^relay ready")
        self.signal(signal.SIGUSR2)
        self.wait_for(lambda _: self.count_lines(SERVES) > count, "the end of an upgrade")
        self.wait_for_line("^relay ready", ready + 1)
        return before

    def fail_to_upgrade(self) -> str:
        """Try to upgrade it; return the reason in the log."""
        count = self.count_lines(FAILED)
        self.signal(signal.SIGUSR2)
        self.wait_for(lambda _: self.count_lines(FAILED) > count, "the end of an upgrade")
        return [line for line in self.lines if FAILED in line][-1]

    def kill(self) -> None:
        """Kill all processes."""
        for pid in self.all_pids[1:]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().kill()


@contextlib.contextmanager
def ends(pid: int) -> Iterator[None]:
    """Expect that a process, which need not be a child, ends in the block or soon after it."""
    descriptor = os.pidfd_open(pid)
    try:
        yield
        assert select.select([descriptor], [], [], PATIENCE)[0], f"process {pid} still runs"
    finally:
        os.close(descriptor)


def is_running(pid: int) -> bool:
    """Return whether a process runs, which need not be a child."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def open_files(pid: int) -> list[str]:
    """Return what the descriptors of a process lead to."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed since they were listed
            found.append(str(each.readlink()))
    return sorted(found)
