"""A terminal for a process to write to."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import termios
from collections.abc import Sequence
from typing import Optional


def run_in_terminal(
    command: Sequence[object], columns: int = 120, environment: Optional[dict[str, str]] = None
) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its status and its output."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    overriding = ("NO_COLOR", "COLUMNS", "LINES")
    clean = {name: value for name, value in os.environ.items() if name not in overriding}
    with subprocess.Popen(
        [str(word) for word in command],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**clean, "TERM": "xterm-256color", "PYTHONIOENCODING": "utf-8", **(environment or {})},
    ) as process:
        os.close(theirs)
        written = bytearray()
        try:
            while piece := os.read(ours, 65536):
                written += piece
        except OSError:  # EIO: no process has the terminal open any more
            pass
        status = process.wait(60)
    os.close(ours)
    return status, written.decode("utf-8").replace("\r\n", "\n")
