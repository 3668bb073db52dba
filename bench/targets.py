"""The targets of the relay, and what the original relay measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from bench.options import Figures

CI_ALLOWANCE = 2.0  # the factor by which `--check` widens each target, for a machine shared with others


class Target(NamedTuple):
    """The bound of one figure of a row.

    Args:
        row: the row's name.
        figure: the figure's name.
        value: the bound, in the figure's unit.
        at_least: whether the figure must reach the bound instead of staying below it.
    """

    row: str
    figure: str
    value: float
    at_least: bool = False

    def met(self, measured: float, allowance: float = 1.0) -> bool:
        """Return whether a figure meets the target, widened by a factor."""
        if self.at_least:
            return measured >= self.value / allowance
        return measured <= self.value * allowance

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.value:g}"


RATIOS = {"64B": 1.8, "1KiB": 1.7, "16KiB": 1.25, "64KiB": 1.15, "256KiB": 1.2}

TARGETS = [
    *(Target(row + encoder, "ratio", ratio) for row, ratio in RATIOS.items() for encoder in ("", "-own")),
    Target("1KiB-full-padding", "ratio", 0.85),
    Target("handshakes", "ratio", 2.8),
    Target("tunnels-1000", "rate_by_one", 0.8, at_least=True),
    Target("tunnels-1000", "fairness", 0.5, at_least=True),
    Target("workers-2", "rate_by_one", 1.7, at_least=True),
    Target("round-trip-busy", "p99_by_quiet_p50", 5.0),
    Target("canary", "p99_ms", 12.0),
    Target("canary-same-address", "p99_ms", 50.0),
    Target("status-on", "added_p99_ms", 2.0),
    Target("64B-on", "cpu_by_off", 1.1),
    Target("64KiB-on", "cpu_by_off", 1.1),
    Target("idle-1000", "kilobytes", 3.0),
    Target("idle-1000", "cpu_ms", 3.0),
    Target("idle-1000", "bytes_a_day", 1e6),
    Target("idle-10000", "kilobytes", 3.0),
    Target("idle-10000", "cpu_ms", 25.0),
    Target("idle-10000", "bytes_a_day", 1e6),
]

ORIGINAL = {
    ("64B", "cpu_us"): 350.0,
    ("1KiB", "cpu_us"): 384.0,
    ("16KiB", "cpu_us"): 532.0,
    ("64KiB", "cpu_us"): 942.0,
    ("256KiB", "cpu_us"): 2820.0,
    ("1KiB-full-padding", "cpu_us"): 491.0,
    ("handshakes", "cpu_us"): 810.0,
    ("idle-1000", "kilobytes"): 17.8,
    ("idle-1000", "cpu_ms"): 7.0,
    ("idle-1000", "bytes_a_day"): 177e6,
}
"""Figures of the original relay, compiled Rust, on a machine with 2 cores and a floor of 6.1 us at 64 B."""


def target_of(row: str, figure: str) -> Optional[Target]:
    """Return the target of a figure, or None."""
    return next((target for target in TARGETS if (target.row, target.figure) == (row, figure)), None)


def missed(rows: Sequence[Figures], allowance: float) -> list[str]:
    """Return one line for each missed target.

    Args:
        rows: the measured rows; targets of other rows are ignored.
        allowance: the factor by which each target is widened.
    """
    lines = []
    for row in rows:
        for name, measured in row.items():
            target = target_of(str(row["row"]), name)
            if target and isinstance(measured, float) and not target.met(measured, allowance):
                bound = f"{target} (widened {allowance:g} times)"
                lines.append(f"{row['row']}: {name} is {measured:.3g}, the target is {bound}")
    return lines
