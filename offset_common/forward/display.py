"""The output for people and programs: lines, a line of progress on a terminal, or JSON.

On a terminal, the last line shows the current state and is replaced. Otherwise each state is a line. With
--json, every event is an object on a line of standard output.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress

from offset_common.command_line import printable
from offset_common.tools.terminal import Progress, is_terminal

LINES_IN_WINDOW = 10  # the lines shown of each kind that strangers can cause
WINDOW = 60.0  # seconds
_UNITS = ("B", "kB", "MB", "GB", "TB")


class Display:
    """Shows events. Its methods may be called from any thread.

    Args:
        as_json: write JSON, for a program instead of a person.
        quiet: show no progress, and no events except problems, as for --stdio.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self._quiet = quiet
        self._lock = threading.RLock()
        self._terminal = not as_json and is_terminal(sys.stderr)
        self._progress = Progress()
        self._state = ""
        self._held = False  # True while the user is being asked
        self._repeated: dict[str, tuple[float, int]] = {}

    def event(self, kind: str, text: str, /, **fields: object) -> None:
        """Show something that happened.

        Args:
            kind: for programs, words joined by "_".
            text: for people, one sentence without a full stop.
            fields: for programs.
        """
        self._show(kind, text, fields, not self._quiet)

    def problem(self, kind: str, text: str, /, **fields: object) -> None:
        """Show something that went wrong, even if this display is quiet; see `event`."""
        self._show(kind, text, fields, True)

    def _show(self, kind: str, text: str, fields: dict[str, object], to_people: bool) -> None:
        if self.as_json:
            self._print_json({"event": kind, "text": text, **fields})
        elif to_people:
            self._print(printable(text))

    def repeated_event(self, kind: str, text: str, /, **fields: object) -> None:
        """Show an event that strangers can cause, but only a few times a minute; count the rest."""
        with self._lock:
            now = time.monotonic()
            start, count = self._repeated.get(kind, (now, 0))
            if now - start >= WINDOW:
                if count > LINES_IN_WINDOW:
                    left_out = count - LINES_IN_WINDOW
                    self.event("left_out", f"{left_out} more lines like this were left out", count=left_out)
                start, count = now, 0
            self._repeated[kind] = (start, count + 1)
            if count < LINES_IN_WINDOW:
                self.event(kind, text, **fields)

    def state(self, text: str, /, **fields: object) -> None:
        """Show the current state; without a terminal, only if it has changed."""
        with self._lock:
            if text == self._state:
                return
            self._state = text
            if self._terminal:
                self.refresh()
            elif text:
                self.event("state", text, **fields)

    def refresh(self, more: str = "") -> None:
        """Write the line of progress again.

        Args:
            more: text to add, such as a rate.
        """
        with self._lock:
            if self._terminal and not self._held:
                if self._state or more:
                    self._progress.show("; ".join(filter(None, (self._state, more))))
                else:
                    self._progress.clear()

    def traffic(self, connections: int, sent: float, received: float) -> None:
        """Show how much is forwarded.

        Args:
            connections: the number of open connections.
            sent: bytes a second to the other side.
            received: bytes a second from it.
        """
        if self.as_json:
            if sent or received:
                self._print_json(
                    {
                        "event": "traffic",
                        "connections": connections,
                        "sent": round(sent),
                        "received": round(received),
                    }
                )
        elif connections:
            noun = "connection" if connections == 1 else "connections"
            self.refresh(f"{connections} {noun}, {size(sent)}/s sent, {size(received)}/s received")
        else:
            self.refresh()

    def result(self, text: str, /, **fields: object) -> None:
        """Print a line that the user asked for, on standard output."""
        with self._lock:
            if self.as_json:
                self._print_json({**fields, "text": text})
                return
            self._progress.clear()
            sys.stdout.write(text + "\n")
            sys.stdout.flush()

    def ask(self, question: str) -> None:
        """Write a question, and hide the line of progress until `asked`."""
        with self._lock:
            self._held = True
            self._progress.clear()
            self._write(f"{printable(question)} ")

    def asked(self) -> None:
        """Show progress again."""
        with self._lock:
            self._held = False
            self.refresh()

    def finish(self) -> None:
        """Leave a clean line for the shell's prompt."""
        with self._lock:
            self._state = ""
            self._progress.interrupted()

    def _print(self, text: str) -> None:
        with self._lock:
            self._progress.clear()
            self._write(("\n" if self._held else "") + text + "\n")
            self.refresh()

    def _print_json(self, fields: dict[str, object]) -> None:
        with self._lock, suppress(OSError, ValueError):
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    @staticmethod
    def _write(text: str) -> None:
        # The terminal or pipe may be closed.
        if sys.stderr is not None:
            with suppress(OSError, ValueError):
                sys.stderr.write(text)
                sys.stderr.flush()


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    value = count
    for unit in _UNITS:
        if value < 1000 or unit == _UNITS[-1]:
            break
        value /= 1000
    return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.1f} {unit}"
