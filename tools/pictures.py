"""Draws the pictures of docs/: each docs/pictures/NAME.txt becomes NAME.svg beside it.

This is `make pictures`. A description has one thing a line; words with spaces stand in quotes, # begins a
comment. Lengths are in units of 10 pixels, from the upper left corner:

    size WIDTH HEIGHT
    area NAME TONE X Y WIDTH HEIGHT TITLE            a room, behind what comes later
    box NAME TONE X Y WIDTH HEIGHT TITLE [LINE]...   a part
    text X Y LINE...
    arrow NAME.SIDE[+-OFFSET] NAME.SIDE[+-OFFSET] [LABEL [SHIFT_X SHIFT_Y]]
    both ...                                         the same with two heads
    maybe ...                                        the same, dashed

SIDE is left, right, top or bottom; OFFSET moves from its middle. An arrow is straight where it can be, and
has corners where its ends are not opposite each other. SHIFT moves the label.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

PICTURES = Path(__file__).resolve().parent.parent / "docs" / "pictures"
UNIT = 10  # pixels
LINE_HEIGHT = 15  # pixels
FONT = "font-family=\"'DejaVu Sans', Verdana, Arial, sans-serif\""
INK, LINES, PAPER = "#1f2933", "#52606d", "#ffffff"
TONES = {
    "blue": ("#e3eefb", "#5b8dc9"),
    "green": ("#e4f3e6", "#5f9f6a"),
    "yellow": ("#fdf3d7", "#c29b36"),
    "red": ("#fbe6e3", "#c4685c"),
    "grey": ("#eef0f2", "#8a94a0"),
    "white": (PAPER, "#8a94a0"),
}
"""For each: what fills it, and what is around it."""

SIDES = {"left": (0.0, 0.5), "right": (1.0, 0.5), "top": (0.5, 0.0), "bottom": (0.5, 1.0)}

Point = tuple[float, float]


class Box(NamedTuple):
    """A rectangle, in pixels."""

    x: float
    y: float
    width: float
    height: float

    def anchor(self, side: str, offset: float) -> Point:
        """Return the place on a side where an arrow begins or ends."""
        along_x, along_y = SIDES[side]
        shift = (0.0, offset) if side in ("left", "right") else (offset, 0.0)
        return self.x + along_x * self.width + shift[0], self.y + along_y * self.height + shift[1]


class Drawing:
    """A picture while it is read from its description."""

    def __init__(self) -> None:
        self._boxes: dict[str, Box] = {}
        self._size = (0.0, 0.0)
        self._parts: list[str] = []

    def add(self, words: Sequence[str]) -> None:
        """Draw what a line of the description says.

        Raises:
            ValueError, KeyError: it cannot be read.
        """
        kind, *rest = words
        if kind == "size":
            self._size = (float(rest[0]) * UNIT, float(rest[1]) * UNIT)
        elif kind == "area":
            self._add_area(rest)
        elif kind == "box":
            self._add_box(rest)
        elif kind == "text":
            self._text(float(rest[0]) * UNIT, float(rest[1]) * UNIT, rest[2:], "start")
        elif kind in ("arrow", "both", "maybe"):
            self._arrow(kind, rest)
        else:
            raise ValueError(f"no such thing: {kind}")

    def svg(self) -> str:
        """Return the picture."""
        width, height = self._size
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:g}" height="{height:g}" '
            f'viewBox="0 0 {width:g} {height:g}" {FONT} font-size="12" fill="{INK}">\n'
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
            f'orient="auto-start-reverse"><path d="M0 0 8 4 0 8z" fill="{LINES}"/></marker></defs>\n'
            f'<rect width="{width:g}" height="{height:g}" fill="{PAPER}"/>\n'
        )
        return head + "\n".join(self._parts) + "\n</svg>\n"

    def _add_area(self, words: Sequence[str]) -> None:
        name, tone, *rest = words
        area = self._boxes[name] = _box(rest[:4])
        self._rectangle(tone, area, corner=12)
        self._text(area.x + UNIT, area.y + 19, rest[4:], "start", bold=True)

    def _add_box(self, words: Sequence[str]) -> None:
        name, tone, *rest = words
        box = self._boxes[name] = _box(rest[:4])
        self._rectangle(tone, box, corner=6)
        title, *lines = rest[4:]
        top = box.y + (box.height - LINE_HEIGHT * (1 + len(lines))) / 2 + 12
        middle = box.x + box.width / 2
        self._text(middle, top, [title], "middle", bold=True)
        self._text(middle, top + LINE_HEIGHT, lines, "middle")

    def _rectangle(self, tone: str, box: Box, corner: int) -> None:
        fill, around = TONES[tone]
        self._parts.append(
            f'<rect x="{box.x:g}" y="{box.y:g}" width="{box.width:g}" height="{box.height:g}" rx="{corner}" '
            f'fill="{fill}" stroke="{around}"/>'
        )

    def _text(self, x: float, y: float, lines: Sequence[str], anchor: str, bold: bool = False) -> None:
        weight = ' font-weight="bold"' if bold else ""
        for index, line in enumerate(lines):
            self._parts.append(
                f'<text x="{x:g}" y="{y + index * LINE_HEIGHT:g}" text-anchor="{anchor}"{weight}>'
                f"{escape(line)}</text>"
            )

    def _arrow(self, kind: str, words: Sequence[str]) -> None:
        points = _path(self._end(words[0]), self._end(words[1]))
        heads = 'marker-end="url(#head)"' + (' marker-start="url(#head)"' if kind == "both" else "")
        dashes = ' stroke-dasharray="5 4"' if kind == "maybe" else ""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self._parts.append(
            f'<polyline points="{path}" fill="none" stroke="{LINES}" stroke-width="1.4" {heads}{dashes}/>'
        )
        if len(words) > 2:
            self._label(points, words[2:])

    def _label(self, points: Sequence[Point], words: Sequence[str]) -> None:
        (x, y), (to_x, to_y) = max(zip(points, points[1:]), key=_length)
        shift_x, shift_y = (float(word) * UNIT for word in words[1:]) if len(words) > 1 else (0.0, -5.0)
        self._parts.append(
            f'<text x="{(x + to_x) / 2 + shift_x:g}" y="{(y + to_y) / 2 + shift_y:g}" text-anchor="middle" '
            f'font-size="11" stroke="{PAPER}" stroke-width="3" paint-order="stroke">{escape(words[0])}</text>'
        )

    def _end(self, word: str) -> tuple[str, Point]:
        found = re.fullmatch(r"(\w+)\.(\w+)([+-][\d.]+)?", word)
        if found is None:
            raise ValueError(f"not the end of an arrow: {word}")
        name, side, offset = found.groups()
        return side, self._boxes[name].anchor(side, float(offset or 0) * UNIT)


def _box(words: Sequence[str]) -> Box:
    return Box(*(float(word) * UNIT for word in words))


def _length(segment: tuple[Point, Point]) -> float:
    (x, y), (to_x, to_y) = segment
    return abs(to_x - x) + abs(to_y - y)


def _path(begin: tuple[str, Point], end: tuple[str, Point]) -> list[Point]:
    """Return the corners of an arrow, its ends included."""
    (side, (x, y)), (to_side, (to_x, to_y)) = begin, end
    if x == to_x or y == to_y:
        return [(x, y), (to_x, to_y)]
    upright, to_upright = side in ("top", "bottom"), to_side in ("top", "bottom")
    if upright and to_upright:
        middle = (y + to_y) / 2
        return [(x, y), (x, middle), (to_x, middle), (to_x, to_y)]
    if not upright and not to_upright:
        middle = (x + to_x) / 2
        return [(x, y), (middle, y), (middle, to_y), (to_x, to_y)]
    return [(x, y), (x, to_y) if upright else (to_x, y), (to_x, to_y)]


def draw(description: str) -> str:
    """Return the picture that a description describes.

    Raises:
        ValueError: a line cannot be read.
    """
    drawing = Drawing()
    for number, line in enumerate(description.splitlines(), 1):
        words = shlex.split(line, comments=True)
        if not words:
            continue
        try:
            drawing.add(words)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise ValueError(f"line {number}: {error}") from error
    return drawing.svg()


def main() -> int:
    """Draw all pictures."""
    for source in sorted(PICTURES.glob("*.txt")):
        try:
            source.with_suffix(".svg").write_text(draw(source.read_text("utf-8")), "utf-8")
        except ValueError as error:
            print(f"{source}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
