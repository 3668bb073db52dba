"""A terminal for a process to write to, and to be asked at."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
import threading
from collections.abc import Sequence
from typing import Optional

import pytest

from tests.support.process import PATIENCE, wait_until


def open_terminal() -> tuple[int, int]:
    """Return the descriptors of a new terminal: our end, and the end of a program."""
    try:
        return pty.openpty()
    except OSError:
        pytest.skip("needs terminals: mount /dev/pts")


def fork_with_terminal() -> tuple[int, int]:
    """Fork as `pty.fork` does; return the process id, 0 in the child, and our end of its terminal."""
    for descriptor in open_terminal():
        os.close(descriptor)
    return pty.fork()


def run_in_terminal(
    command: Sequence[object], columns: int = 120, environment: Optional[dict[str, str]] = None
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its status and its output."""
    overriding = ("NO_COLOR", "COLUMNS", "LINES")
    clean = {name: value for name, value in os.environ.items() if name not in overriding}
    clean.update({"TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8"}, **(environment or {}))
    terminal = Terminal([str(word) for word in command], columns, clean)
    try:
        status = terminal.process.wait(60)
    finally:
        terminal.close()
    return status, terminal.text.replace("\r\n", "\n")


class Terminal:
    """A command that runs on a terminal of its own, until `close`."""

    def __init__(
        self, command: Sequence[str], columns: int = 200, environment: Optional[dict[str, str]] = None
    ) -> None:
        self._ours, theirs = open_terminal()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        self._written = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while piece := os.read(self._ours, 65536):
                self._written += piece
        except OSError:  # EIO: no process has the terminal open any more
            pass

    @property
    def text(self) -> str:
        """Everything that was written so far."""
        return self._written.decode("utf-8", "replace")

    def wait_for(self, text: str) -> None:
        """Wait until the command has written a text."""
        wait_until(lambda: text in self.text, f"{text!r} on the terminal")

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._ours, text.encode())

    def close(self) -> None:
        """Kill the command, if it still runs."""
        self.process.kill()
        self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        os.close(self._ours)
