"""What a terminal gets and a pipe does not: colour, and lines that say what is being waited for."""

from __future__ import annotations

import enum
import os
import sys
from contextlib import suppress
from typing import Optional, TextIO


class Paint(enum.Enum):
    """What a piece of text is; the values are the numbers of the escape sequence that shows it so."""

    HEADING = "1"
    GOOD = "1;32"
    BAD = "1;31"
    QUIET = "2"
    LENGTH = "36"
    NONCE = "33"
    TAG = "35"
    FIELD = "32"


def is_terminal(stream: Optional[TextIO]) -> bool:
    """Tell whether somebody looks at what is written there."""
    try:
        return stream is not None and stream.isatty()
    except ValueError:  # closed
        return False


def wants_colour(stream: Optional[TextIO]) -> bool:
    """Tell whether to write colours: to a terminal that has them, unless NO_COLOR says otherwise."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def painted(text: str, paint: Optional[Paint], colour: bool) -> str:
    """Return the text in its colour, or as it is where there is none to be."""
    return f"\033[{paint.value}m{text}\033[0m" if colour and paint else text


def printable(text: object) -> str:
    """Return the text with everything escaped that would steer the terminal: a file may have any name."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in str(text))


def say(text: str) -> None:
    """Write one line to the output at once; what its encoding does not have is escaped."""
    stream = sys.stdout
    if stream is not None:
        encoding = stream.encoding or "utf-8"
        stream.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()


def say_lines(text: str) -> None:
    """Write lines to the output, each as `say` does."""
    for line in text.split("\n"):
        say(line)


class Progress:
    """One line on the terminal's error output about what is under way, wiped away when it is done.

    Args:
        wanted: False where nothing is to be shown, terminal or not.
    """

    def __init__(self, wanted: bool = True) -> None:
        self._shown = wanted and is_terminal(sys.stderr) and os.environ.get("TERM") != "dumb"

    def show(self, text: str) -> None:
        """Replace the line."""
        self._write(f"\r\033[K{text}")

    def clear(self) -> None:
        """Wipe the line away; whatever else is written comes after this."""
        self._write("\r\033[K")

    def _write(self, text: str) -> None:
        if self._shown and sys.stderr is not None:
            with suppress(OSError, ValueError, UnicodeError):
                sys.stderr.write(text)
                sys.stderr.flush()
