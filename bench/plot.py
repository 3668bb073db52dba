"""Draw the figures of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")

from matplotlib import pyplot

from bench.options import Figures
from bench.targets import ORIGINAL, target_of

MET, MISSED, ORIGINAL_COLOUR = "#2f6f9f", "#c0562f", "#c9c9c9"
UNITS = {
    "cpu_us": ("CPU, us", 1.0),
    "kilobytes": ("memory, kB each", 1.0),
    "cpu_ms": ("CPU, ms/s", 1.0),
    "bytes_a_day": ("traffic, MB a day", 1e6),
}


def draw(rows: list[Figures], path: Path) -> None:
    """Draw each ratio beside its target, and each figure beside the original's."""
    # The same figures give the same file: text as text, no random ids, no date.
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure, (ratios, original) = pyplot.subplots(2, 1, figsize=(8, 8), layout="constrained")
        _draw_ratios(ratios, rows)
        _draw_original(original, rows)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _draw_ratios(axes: Any, rows: list[Figures]) -> None:
    axes.set_title("CPU time as a multiple of the floor (line: target)")
    for row in rows:
        name, ratio = str(row["row"]), row.get("ratio")
        target = target_of(name, "ratio")
        if isinstance(ratio, float) and target:
            bars = axes.barh(name, ratio, color=MET if target.met(ratio) else MISSED)
            axes.bar_label(bars, [f" {ratio:.2f} ({target})"])
            place = bars[0].get_y()
            axes.vlines(target.value, place, place + bars[0].get_height(), color="black")
    axes.invert_yaxis()
    axes.margins(x=0.2)


def _draw_original(axes: Any, rows: list[Figures]) -> None:
    axes.set_title("Compared with the original relay (grey, another machine; log scale)")
    axes.set_xscale("log")
    axes.margins(x=0.2)
    for row in rows:
        for figure, (unit, scale) in UNITS.items():
            measured, original = row.get(figure), ORIGINAL.get((str(row["row"]), figure))
            if isinstance(measured, float) and original:
                name = f"{row['row']}: {unit}"
                axes.barh(name, original / scale, color=ORIGINAL_COLOUR)
                bars = axes.barh(name, measured / scale, color=MET, height=0.5)
                axes.bar_label(bars, [f" {measured / scale:,.1f} (original {original / scale:,g})"])
    axes.invert_yaxis()
