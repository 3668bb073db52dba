"""Work in child processes, and the cost of processes as the system counts it."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Callable

from offset_common.errors import OperatorError

TIMEOUT = 120.0  # seconds for one step of a child

_fork = multiprocessing.get_context("fork")


class Child:
    """A function that runs in a process of its own and exchanges values with its parent over a pipe.

    Args:
        function: called with the child's end of the pipe, then with `arguments`.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=function, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        assert self._process.pid is not None
        return self._process.pid

    def send(self, value: object = None) -> None:
        """Send a value to the child."""
        self._pipe.send(value)

    def receive(self) -> Any:
        """Return the next value from the child.

        Raises:
            OperatorError: the child sent nothing within TIMEOUT, or ended.
        """
        if not self._pipe.poll(TIMEOUT):
            raise OperatorError(f"a part of the benchmark did not finish within {TIMEOUT:.0f} s")
        try:
            return self._pipe.recv()
        except EOFError:
            raise OperatorError("a part of the benchmark ended early; its error is above") from None

    def stop(self) -> None:
        """Kill the process."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time that processes have used so far.

    This is the clock of /proc/PID/stat (utime + stime) in nanoseconds; that file counts in ticks of 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def process_tree(pid: int) -> list[int]:
    """Return `pid` and the ids of all its descendants."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            fields = _read(entry / "stat").rpartition(")")[2].split()
            if fields:
                parents[int(entry.name)] = int(fields[1])
    tree = [pid]
    for member in tree:
        tree += [child for child, parent in parents.items() if parent == member]
    return tree


def memory_size(pids: Sequence[int]) -> int:
    """Return the memory of processes in bytes; a page shared by n processes counts as 1/n (PSS).

    Pages of files, such as the interpreter, are not counted: no connection needs any, and their share changes
    with every other Python process on the machine.
    """
    total = 0
    for pid in pids:
        for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process has ended
        return ""


def close_pipe_and_exit(pipe: Pipe) -> None:
    """End a child without running the cleanup that its parent will run."""
    pipe.close()
    os._exit(0)
