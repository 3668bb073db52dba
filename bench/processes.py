"""What processes cost, as the system counts it, and work in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, Callable

from offset_common.errors import OperatorError

PATIENCE = 120.0  # seconds for any one step of a child, before the benchmark gives up

_fork = multiprocessing.get_context("fork")


class Child:
    """A function in a process of its own, which talks to us over a pipe.

    Args:
        function: called with the child's end of the pipe, then `arguments`.
    """

    def __init__(self, function: Callable[..., None], *arguments: Any) -> None:
        self._pipe, theirs = _fork.Pipe()
        self._process = _fork.Process(target=function, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def pid(self) -> int:
        """The process's number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def has_spoken(self) -> bool:
        """Whether there is a value to hear, or the child has ended."""
        return self._pipe.poll()

    def tell(self, value: object = None) -> None:
        """Send a value."""
        self._pipe.send(value)

    def hear(self, patience: float = PATIENCE) -> Any:
        """Wait for a value.

        Raises:
            OperatorError: none came in time, or the child ended.
        """
        if not self._pipe.poll(patience):
            raise OperatorError(f"a part of the benchmark did not finish within {patience:.0f} s")
        try:
            return self._pipe.recv()
        except EOFError:
            raise OperatorError("a part of the benchmark ended early; its error is above") from None

    def stop(self) -> None:
        """End the process, at once."""
        self._process.kill()
        self._process.join()
        self._pipe.close()


def cpu_seconds(pids: Sequence[int]) -> float:
    """Return the user and system time that processes used so far.

    The clock is that of /proc/PID/stat (utime + stime), in ns where that file counts in ticks of 10 ms.
    """
    return sum(time.clock_gettime((~pid << 3) | 2) for pid in pids)


def process_tree(pid: int) -> list[int]:
    """Return `pid` and all its descendants."""
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
    """Return the bytes of memory of processes, shared pages counted in parts (PSS).

    Pages of files (the interpreter, its libraries) are left out: their part changes with every other
    Python process on the machine, and no connection needs any.
    """
    total = 0
    for pid in pids:
        for line in _read(Path(f"/proc/{pid}/smaps_rollup")).splitlines():
            if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                total += int(line.split()[1]) * 1024
    return total


def allow_descriptors() -> int:
    """Raise the limit of open files as far as is allowed; return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # the process is gone
        return ""


def close_pipe_and_exit(pipe: Pipe) -> None:
    """End a child without the clean-up that belongs to its parent."""
    pipe.close()
    os._exit(0)
