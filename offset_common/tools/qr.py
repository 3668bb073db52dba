"""A ticket as a QR code, for the mobile app to scan: on the terminal, or as a picture.

Source: section 8 of docs/protocol.md: the text of the code is the JSON of the ticket.
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from offset_common.errors import FileError, ServiceError, UsageError
from offset_common.files import AnyPath, write_new_file
from offset_common.tickets import AddressTicket
from offset_common.tools.terminal import is_terminal, wants_colour

QUIET_ZONE = 4  # modules of light around the code, which a reader needs
PICTURE_SCALE = 8  # pixels of a module
PICTURES = (".png", ".svg")

_BLOCKS = {(False, False): "█", (False, True): "▀", (True, False): "▄", (True, True): " "}
"""The character of an upper and a lower module, light ones drawn: they may be dark."""

# Black on white whatever the terminal's own colours are; without colours, the ink is the light.
_WHITE_ON_BLACK = "\033[38;5;231;48;5;16m"
_PLAIN = "\033[0m"


class QrCode:
    """The QR code of one ticket.

    Args:
        ticket: whose JSON it holds, byte for byte as in its file.

    Raises:
        ServiceError: the package segno is not installed.
    """

    def __init__(self, ticket: AddressTicket) -> None:
        try:
            import segno  # an extra: only who wants a QR code needs it
        except ImportError:
            raise ServiceError(
                "a QR code needs the package segno: pip install 'offset-relay[qr]', or pip install segno"
            ) from None
        # The lowest error correction makes the fewest modules; more is used where it costs none.
        self._code: Any = segno.make_qr(ticket.to_json(), error="l")

    def rows(self) -> list[list[bool]]:
        """Return the modules, quiet zone included, from the top; True is dark."""
        return [[bool(module) for module in row] for row in self._code.matrix_iter(border=QUIET_ZONE)]

    def text(self, colour: bool) -> str:
        """Return it as lines of block characters, two rows of modules a line.

        Args:
            colour: the terminal has colours; without, its background must be dark.
        """
        rows = self.rows()
        if len(rows) % 2:
            rows.append([False] * len(rows[0]))
        lines = ["".join(_BLOCKS[pair] for pair in zip(*rows[at : at + 2])) for at in range(0, len(rows), 2)]
        if colour:
            lines = [f"{_WHITE_ON_BLACK}{line}{_PLAIN}" for line in lines]
        return "\n".join(lines)

    def show(self) -> None:
        """Print it.

        Raises:
            ServiceError: the terminal is too narrow, or has no block characters.
        """
        _check_terminal(len(self.rows()))
        print(self.text(wants_colour(sys.stdout)))

    def save(self, path: AnyPath) -> None:
        """Write it as a new picture, of the kind that the ending of the name says.

        Raises:
            UsageError: the name ends neither in .png nor in .svg.
            FileError: it exists, or cannot be written.
        """
        check_picture(path)
        kind = Path(path).suffix[1:].lower()
        content = io.BytesIO()
        self._code.save(content, kind=kind, scale=PICTURE_SCALE, border=QUIET_ZONE, **_LOOK[kind])
        if kind == "svg":
            write_new_file(path, content.getvalue().decode("utf-8"), private=False)
        else:
            _write_new_bytes(path, content.getvalue())


# A background of its own: a code on a dark page could not be read.
_LOOK: dict[str, dict[str, object]] = {"png": {}, "svg": {"light": "white"}}


def check_picture(path: AnyPath) -> None:
    """Refuse a name that no picture can be written to, before anything else is made.

    Raises:
        UsageError: the name ends neither in .png nor in .svg.
        FileError: it exists.
    """
    if Path(path).suffix.lower() not in PICTURES:
        raise UsageError(f"{path}: a picture's name ends in {' or '.join(PICTURES)}")
    if os.path.lexists(path):
        raise FileError(path, "exists already, and no file is ever overwritten")


def _check_terminal(width: int) -> None:
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    instead = "make a picture instead, with --qr-output FILE.png"
    try:
        "".join(_BLOCKS.values()).encode(encoding)
    except UnicodeEncodeError:
        raise ServiceError(f"the output's encoding, {encoding}, has no block characters: {instead}") from None
    if is_terminal(sys.stdout):
        columns = os.get_terminal_size(sys.stdout.fileno()).columns
        if 0 < columns < width:
            raise ServiceError(
                f"the QR code needs {width} columns and the terminal has {columns}: widen it, or {instead}"
            )


def _write_new_bytes(path: AnyPath, content: bytes) -> None:
    target = Path(path)
    try:
        with target.open("xb") as file:
            try:
                file.write(content)
                file.flush()
            except BaseException:
                target.unlink()
                raise
    except FileExistsError as error:
        raise FileError(path, "exists already, and no file is ever overwritten") from error
    except (OSError, ValueError) as error:
        raise FileError(path, getattr(error, "strerror", None) or str(error)) from error
