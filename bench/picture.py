"""The figures as a picture (SVG): each ratio beside what is promised, each figure beside the original's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple
from xml.sax.saxutils import escape

from bench.options import Figures
from bench.targets import ORIGINAL, ORIGINAL_FLOOR_US, target_of

WIDTH, LEFT, RIGHT, LINE = 760, 190, 130, 24  # pixels; LEFT and RIGHT are for the texts beside the bars
BAR = WIDTH - LEFT - RIGHT
MEASURED, MISSED, OTHER, MARK, INK = "#2f6f9f", "#c0562f", "#c9c9c9", "#111111", "#222222"

_UNITS = {
    "cpu_us": ("CPU", "us"),
    "kilobytes": ("memory", "kB"),
    "cpu_ms": ("CPU of 1,000", "ms/s"),
    "bytes_a_day": ("keepalives", "MB a day"),
}


class Bar(NamedTuple):
    """One line of a panel: what it is called, its bars (value, colour), a mark, and a text behind."""

    name: str
    values: Sequence[tuple[float, str]]
    mark: float
    text: str


def draw(rows: Sequence[Figures]) -> str:
    """Return the picture of measured rows, as the text of an SVG file."""
    floor = next((row["floor_us"] for row in rows if row["row"] == "64B"), None)
    here = f"; here the floor of 64 B is {floor:.1f} us" if isinstance(floor, float) else ""
    parts: list[str] = []
    top = _panel(parts, 10, "CPU, times the bare floor of the same bytes (mark: at most)", _ratios(rows))
    title = "Beside the original (grey), compiled Rust, measured on another machine"
    top = _panel(parts, top + 14, title, _beside_original(rows))
    parts.append(_text(10, top + 14, f"There the floor of 64 B was {ORIGINAL_FLOOR_US} us{here}.", size=11))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{top + 30}" '
        f'viewBox="0 0 {WIDTH} {top + 30}" font-family="sans-serif">\n'
        f'<rect width="100%" height="100%" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _ratios(rows: Sequence[Figures]) -> list[Bar]:
    bars = []
    for row in rows:
        ratio, target = row.get("ratio"), target_of(str(row["row"]), "ratio")
        if isinstance(ratio, float) and target:
            colour = MEASURED if target.met(ratio) else MISSED
            text = f"{ratio:.2f} ({target})"
            bars.append(Bar(str(row["row"]), [(ratio, colour)], target.value, text))
    return bars


def _beside_original(rows: Sequence[Figures]) -> list[Bar]:
    bars = []
    for row in rows:
        for figure, (what, unit) in _UNITS.items():
            measured, original = row.get(figure), ORIGINAL.get((str(row["row"]), figure))
            if isinstance(measured, float) and original:
                by = 1e6 if figure == "bytes_a_day" else 1
                text = f"{measured / by:,.3g} : {original / by:,.4g} {unit}"
                # Each line has its own unit, so the original's bar is the whole line.
                values = [(1.0, OTHER), (measured / original, MEASURED)]
                bars.append(Bar(f"{row['row']}, {what}", values, 0.0, text))
    return bars


def _panel(parts: list[str], top: int, title: str, bars: Sequence[Bar]) -> int:
    """Add a panel to the parts of the picture; return where it ends."""
    parts.append(_text(10, top + 14, title, weight="bold"))
    top += LINE
    most = max((max(bar.mark, *(value for value, _ in bar.values), 0.0) for bar in bars), default=1.0)
    for bar in bars:
        parts.append(_text(LEFT - 8, top + 15, bar.name, anchor="end"))
        for number, (value, colour) in enumerate(bar.values):
            inset = 4 * number  # a second bar lies, thinner, in the first
            width = min(value / most, 1.0) * BAR
            parts.append(
                f'<rect x="{LEFT}" y="{top + 3 + inset}" width="{width:.1f}" '
                f'height="{LINE - 7 - 2 * inset}" fill="{colour}"/>'
            )
        if bar.mark:
            at = LEFT + bar.mark / most * BAR
            parts.append(f'<rect x="{at - 1:.1f}" y="{top}" width="2" height="{LINE - 1}" fill="{MARK}"/>')
        parts.append(_text(WIDTH - RIGHT + 8, top + 15, bar.text, size=11))
        top += LINE
    return top


def _text(x: int, y: int, text: str, anchor: str = "start", weight: str = "normal", size: int = 12) -> str:
    style = f'font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" fill="{INK}"'
    return f'<text x="{x}" y="{y}" {style}>{escape(text)}</text>'
