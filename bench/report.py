"""The table on the terminal: one line for each row."""

from __future__ import annotations

from bench.options import Figures
from bench.targets import ORIGINAL, target_of

NAME_WIDTH = 20

UNITS = {
    "rate": "{:,.0f}/s",
    "megabytes": "{:,.1f} MB/s",
    "cpu_us": "{:,.1f} us",
    "floor_us": "floor {:,.1f} us",
    "ratio": "{:.2f} x",
    "fairness": "slowest {:.2f} of mean",
    "rate_by_one": "{:.2f} of one",
    "cpu_by_off": "{:.2f} of off",
    "p50_ms": "p50 {:.2f} ms",
    "p99_ms": "p99 {:.2f} ms",
    "added_p99_ms": "{:+.2f} ms of p99",
    "p99_by_quiet_p50": "p99 {:.1f} x quiet p50",
    "kilobytes": "{:.1f} kB each",
    "cpu_ms": "{:.1f} ms/s",
    "floor_cpu_ms": "floor {:.1f} ms/s",
    "bytes_a_day": "{:,.0f} B/day each",
}
"""How each figure is printed, in the order of the columns."""


def format_row(row: Figures) -> str:
    """Return the line of a row: its figures, their targets, and the original's figures."""
    return " ".join([f"{row['row']!s:<{NAME_WIDTH}}", *format_figures(row, width=14)])


def format_figures(row: Figures, width: int = 0) -> list[str]:
    """Return the figures of a row with their targets and the original's figures.

    Args:
        row: its figures.
        width: the minimum width of a figure, in characters.
    """
    return [
        f"{form.format(row[name]):>{width}}{_remark(str(row['row']), name, row[name])}"
        for name, form in UNITS.items()
        if name in row
    ]


def _remark(row: str, name: str, measured: object) -> str:
    remark = ""
    target = target_of(row, name)
    if target and isinstance(measured, float):
        remark += f" ({target}{'' if target.met(measured) else ' MISSED'})"
    if (row, name) in ORIGINAL:
        remark += f" [original {ORIGINAL[row, name]:,.10g}]"
    return remark
