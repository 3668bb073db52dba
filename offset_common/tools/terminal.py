"""Terminal output: styles and a progress line, both omitted if the output is not a terminal."""

from __future__ import annotations

import enum
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from typing import Optional, TextIO


class Style(enum.Enum):
    """The role of a piece of text. The value is the parameter of its ANSI escape sequence."""

    HEADING = "1"
    GOOD = "1;32"
    BAD = "1;31"
    QUIET = "2"
    LENGTH = "36"
    NONCE = "33"
    TAG = "35"
    FIELD = "32"


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Return whether a stream is a terminal; False if it is closed or None."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def may_read(stream: TextIO) -> bool:
    """Return whether this process may read from a terminal: a background job of a shell may not."""
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except (OSError, ValueError):  # the terminal has no job control
        return True


def wants_colour(stream: Optional[TextIO]) -> bool:
    """Return whether to write colours: to a terminal that supports them, unless NO_COLOR is set."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def text_width(stream: Optional[TextIO], most: int) -> int:
    """Return the width of a line of text: that of the terminal, at most `most`; without one, `most`.

    Args:
        stream: the output.
        most: the maximum width, in columns.
    """
    if not is_terminal(stream):
        return most
    return min(most, shutil.get_terminal_size((most, 0)).columns)


def wrap(text: str, width: int) -> list[str]:
    """Return text as lines of at most `width` columns; an escape sequence in it counts as text."""
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def styled(text: str, style: Optional[Style], colour: bool) -> str:
    """Return the text in a style, or unchanged without a style or colours."""
    return f"\033[{style.value}m{text}\033[0m" if colour and style else text


def print_line(text: str) -> None:
    """Print one line and flush; escape characters that the output encoding lacks."""
    stream = sys.stdout
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


class Progress:
    """A temporary line on stderr about the current step, shown only on a terminal."""

    def __init__(self) -> None:
        self._on_terminal = is_terminal(sys.stderr)
        self._shown = self._on_terminal and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replace the line; cut it to the width of the terminal, because only one row can be erased."""
        if self._shown:
            self._write(f"\r\033[K{text[: text_width(sys.stderr, len(text) + 1) - 1]}")

    def clear(self) -> None:
        """Erase the line; call this before any other output."""
        if self._shown:
            self._write("\r\033[K")

    def interrupted(self) -> None:
        """Leave a clean line for the shell's prompt after Ctrl-C, which terminals show as "^C"."""
        if self._shown:
            self.clear()
        elif self._on_terminal:
            self._write("\n")

    def _write(self, text: str) -> None:
        if sys.stderr is not None:
            with suppress(OSError, ValueError, UnicodeError):
                sys.stderr.write(text)
                sys.stderr.flush()
