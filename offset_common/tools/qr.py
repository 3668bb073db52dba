"""A text as a QR code, on the terminal or in a picture file.

Source: section 8 of docs/protocol.md: the mobile app scans the JSON of a ticket.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from offset_common.errors import FileError, ServiceError, UsageError
from offset_common.files import AnyPath, write_new_file
from offset_common.tools.terminal import is_terminal, wants_colour

QUIET_ZONE = 4  # modules; the light border that QR code readers need
PICTURE_SCALE = 8  # pixels per module

_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
"""A character for two modules, one above the other. It draws the light ones; True is dark."""

# Fixed colours, because those of the terminal are unknown: the blocks are white on black.
_WHITE_ON_BLACK = "\033[38;5;231;48;5;16m"
_RESET = "\033[0m"

# Options of segno by file type. An SVG needs its own background, to be readable on a dark page.
_PICTURE_OPTIONS: dict[str, dict[str, object]] = {"png": {}, "svg": {"light": "white"}}


class QrCode:
    """A QR code.

    Args:
        content: its text.

    Raises:
        ServiceError: the package segno is not installed.
    """

    def __init__(self, content: str) -> None:
        try:
            import segno  # an optional dependency
        except ImportError:
            raise ServiceError(
                "a QR code needs the package segno; install it in the virtual environment of this program"
                " (.venv/bin/pip install segno), or as Debian's package (apt-get install python3-segno)"
            ) from None
        # The lowest error correction gives the smallest code; segno raises it if the size stays the same.
        self._code: Any = segno.make_qr(content, error="l")

    def rows(self) -> list[list[bool]]:
        """Return the rows of modules from the top, with the quiet zone; True is dark."""
        return [[bool(module) for module in row] for row in self._code.matrix_iter(border=QUIET_ZONE)]

    def text(self, colour: bool) -> str:
        """Return the code as lines of block characters, with two rows of modules in each line.

        Args:
            colour: set the colours. Without them the terminal's background must be dark.
        """
        rows = self.rows()
        if len(rows) % 2:
            rows.append([False] * len(rows[0]))
        lines = ["".join(_BLOCKS[pair] for pair in zip(*rows[at : at + 2])) for at in range(0, len(rows), 2)]
        if colour:
            lines = [f"{_WHITE_ON_BLACK}{line}{_RESET}" for line in lines]
        return "\n".join(lines)

    def show(self) -> None:
        """Print the code.

        Raises:
            ServiceError: the terminal is too narrow, or its encoding has no block characters.
        """
        _check_terminal(len(self.rows()))
        print(self.text(wants_colour(sys.stdout)))

    def save(self, path: AnyPath) -> None:
        """Write the code to a new picture file, in the format of its extension.

        Raises:
            UsageError: the extension is neither .png nor .svg.
            FileError: the file exists or cannot be written.
        """
        check_picture(path)
        kind = Path(path).suffix[1:].lower()
        content = io.BytesIO()
        options = _PICTURE_OPTIONS[kind]
        self._code.save(content, kind=kind, scale=PICTURE_SCALE, border=QUIET_ZONE, **options)
        write_new_file(path, content.getvalue(), private=False)


def check_picture(path: AnyPath) -> None:
    """Check the name of a picture file, so that an invalid one is reported before any file is written.

    Raises:
        UsageError: the extension is neither .png nor .svg.
        FileError: the file exists.
    """
    if Path(path).suffix[1:].lower() not in _PICTURE_OPTIONS:
        raise UsageError(f"{path}: unknown picture format; use a name that ends in .png or .svg")
    if os.path.lexists(path):
        raise FileError(path, "the file already exists; choose another name or remove it first")


def _check_terminal(width: int) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    instead = "make a picture with --qr-output FILE.png"
    try:
        "".join(_BLOCKS.values()).encode(encoding)
    except UnicodeEncodeError:
        raise ServiceError(f"the output encoding {encoding} has no block characters; {instead}") from None
    if is_terminal(sys.stdout):
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
        if 0 < columns < width:
            raise ServiceError(
                f"the QR code needs {width} columns but the terminal has {columns}; widen it, or {instead}"
            )
