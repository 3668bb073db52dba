"""Counters, for example of the connections of each key, without entries for zero."""

from __future__ import annotations

from collections import Counter
from typing import TypeVar

T = TypeVar("T")


def count_down(counts: Counter[T], thing: T) -> None:
    """Subtract one from the count of `thing`, and remove its entry at zero."""
    counts[thing] -= 1
    if not counts[thing]:
        del counts[thing]
