"""A process whose standard error is collected line by line."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Optional

from tests.support.relay_log import Ready, fields_in, parse_ready, without_time

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 60.0  # seconds for any step of a process


def wait_until(condition: Callable[[], object], what: str = "it", seconds: float = PATIENCE) -> None:
    """Wait until a condition holds; fail if it doesn't in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.005)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nothing listens.

    The system gives neither this port to a connection nor the one 10,000 above, the bus of a Redis cluster.
    """
    while True:
        port = 12_000 + secrets.randbelow(10_000)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@contextmanager
def ready_relay(
    command: Sequence[object], directory: Path = ROOT, environment: Optional[dict[str, str]] = None
) -> Iterator[tuple[Ready, subprocess.Popen[str]]]:
    """Run a command until its first log line reports a relay; after the block, stop it with status 0.

    Args:
        command: the command line.
        directory: the working directory.
        environment: of the process; None for that of the test.
    """
    with subprocess.Popen(
        [str(word) for word in command],
        cwd=directory,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            ready = parse_ready(process.stderr.readline())
            assert ready is not None
            yield ready, process
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()


class LoggedProcess:
    """A running command; a thread collects its standard error.

    Lines are collected without the times of the relay's log.

    Args:
        arguments: the command line.
        directory: the working directory.
        stdin: where its standard input comes from, as for subprocess.
    """

    def __init__(
        self, arguments: Sequence[str], directory: Path = ROOT, stdin: int = subprocess.DEVNULL
    ) -> None:
        self.process = subprocess.Popen(arguments, cwd=directory, stdin=stdin, stderr=subprocess.PIPE)
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._collect, daemon=True)
        self._reader.start()

    def _collect(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            with self._changed:
                self.lines.append(without_time(line.decode().rstrip("\n")))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait_for(self, find: Callable[[Sequence[str]], object], what: str) -> None:
        """Wait until `find` returns something true for the lines."""
        deadline = time.monotonic() + PATIENCE
        with self._changed:
            while not find(self.lines):
                left = deadline - time.monotonic() if self._reader.is_alive() else 0.0
                assert left > 0, f"{what} did not appear: {self.lines[-10:]}"
                self._changed.wait(min(left, 0.5))

    def wait_for_line(self, pattern: str, count: int = 1) -> str:
        """Return the first line that matches, once `count` lines do."""
        self.wait_for(lambda _: self.count_lines(pattern) >= count, f"{count} x {pattern!r}")
        return next(line for line in self.lines if re.search(pattern, line))

    def count_lines(self, pattern: str) -> int:
        """Return the number of lines that match."""
        return sum(1 for line in self.lines if re.search(pattern, line))

    @property
    def status_port(self) -> int:
        """Return the port of a relay's status, once it is ready."""
        return int(fields_in(self.wait_for_line("^status ready: "))["address"].rpartition(":")[2])

    @property
    def pid(self) -> int:
        """Return the process id."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Return whether the process runs."""
        return self.process.poll() is None

    @property
    def children(self) -> list[int]:
        """Return the process ids of its children, none if it has ended."""
        task = Path(f"/proc/{self.pid}/task/{self.pid}/children")
        try:
            return [int(child) for child in task.read_text().split()]
        except FileNotFoundError:
            return []

    def stop(self, number: int = signal.SIGTERM) -> Optional[int]:
        """Send a signal; return the exit status."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        """Wait until the process ends; return the exit status."""
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill the process and its children, if they still run, and read its last lines."""
        if self.alive:
            for child in self.children:
                with contextlib.suppress(ProcessLookupError):  # it has ended in the meantime
                    os.kill(child, signal.SIGKILL)
            self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        if self.process.stdin is not None:
            self.process.stdin.close()
        if self.process.stderr is not None and not self._reader.is_alive():
            self.process.stderr.close()
