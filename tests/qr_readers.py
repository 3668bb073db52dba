"""Independent readers of QR codes, and pictures for them to read."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

import pytest

Rows = list[list[bool]]
"""A picture: rows of pixels from the top; True is dark."""

SCALE = 4  # pixels of a module

READERS = [
    pytest.param(
        "zbar",
        marks=pytest.mark.skipif(
            shutil.which("zbarimg") is None, reason="needs zbarimg, of the system's package zbar-tools"
        ),
    ),
    pytest.param(
        "zxing",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("zxingcpp") is None, reason="needs the package zxing-cpp"
        ),
    ),
]


def read_qr_code(reader: str, picture: Rows, directory: Path) -> str:
    """Return the text of the one QR code in a picture."""
    return _read_with_zbar(picture, directory) if reader == "zbar" else _read_with_zxing(picture)


def _read_with_zbar(picture: Rows, directory: Path) -> str:
    path = directory / "picture.pgm"
    path.write_bytes(b"P5 %d %d 255\n" % (len(picture[0]), len(picture)) + _pixels(picture))
    return read_file_with_zbar(path)


def read_file_with_zbar(path: Path) -> str:
    """Return the text of the one QR code in the picture of a file."""
    command = ["zbarimg", "--quiet", "--raw", "--oneshot", "-Sdisable", "-Sqrcode.enable", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=60)
    return done.stdout.decode("utf-8").removesuffix("\n")


def _read_with_zxing(picture: Rows) -> str:
    import zxingcpp  # not every Python has this wheel

    pixels = memoryview(_pixels(picture)).cast("B", (len(picture), len(picture[0])))
    (found,) = zxingcpp.read_barcodes(pixels)
    text: str = found.text
    return text


def _pixels(picture: Rows) -> bytes:
    return bytes(0 if dark else 255 for row in picture for dark in row)


def enlarged(picture: Rows) -> Rows:
    """Return the picture with `SCALE` pixels for one, in both directions."""
    return [[dark for dark in row for _ in range(SCALE)] for row in picture for _ in range(SCALE)]


def picture_of_blocks(text: str, ink_is_dark: bool) -> Rows:
    """Return the picture that a terminal shows: each block character is two pixels, one above the other."""
    upper, lower = "█▀", "█▄"
    rows: Rows = []
    for line in text.split("\n"):
        rows.append([(character in upper) is ink_is_dark for character in line])
        rows.append([(character in lower) is ink_is_dark for character in line])
    return rows


def picture_of_svg(text: str) -> Rows:
    """Return the picture of an SVG that draws runs of dark modules as strokes, one module a pixel."""
    size = re.search(r'viewBox="0 0 (\d+) (\d+)"|<svg[^>]* width="(\d+)" height="(\d+)"', text)
    assert size is not None
    scale = re.search(r'transform="scale\((\d+)\)"', text)
    width, height = (int(number) for number in size.groups() if number)
    if scale:
        width, height = width // int(scale[1]), height // int(scale[1])
    line = re.search(r'<path[^>]*class="qrline"[^>]*>', text)
    assert line is not None and 'stroke="#000"' in line[0], "the dark modules"
    stroke = re.search(r' d="([^"]*)"', line[0])
    assert stroke is not None
    rows = [[False] * width for _ in range(height)]
    x, y = 0.0, 0.0
    for command, numbers in re.findall(r"([Mmh])([-\d. ]+)", stroke[1]):
        values = [float(number) for number in re.findall(r"-?[\d.]+", numbers)]
        if command == "h":
            for column in range(int(x), int(x + values[0])):
                rows[int(y)][column] = True
            x += values[0]
        elif command == "M":
            x, y = values
        else:
            x, y = x + values[0], y + values[1]
    return rows
