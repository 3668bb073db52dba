"""What a person may choose about a run."""

from __future__ import annotations

from typing import Callable, NamedTuple, Union

Figures = dict[str, Union[float, str]]
"""One row of the table: its name under "row", and the figures."""

Report = Callable[[Figures], None]
"""Told of each row as soon as it is measured."""


class Options(NamedTuple):
    """How much is measured.

    Args:
        quick: shorter runs and fewer of them, under a minute in all.
        verify: decrypt and check what comes out of every tunnel, instead of measuring again and again.
    """

    quick: bool
    verify: bool

    @property
    def repeats(self) -> int:
        """How often each load runs; the best run counts, as others on the machine only ever make it worse."""
        if self.verify:
            return 1
        return 3 if self.quick else 5

    @property
    def bytes_at_once(self) -> int:
        """The bytes of sealed input of one load."""
        return (24 if self.quick else 80) << 20

    @property
    def messages_at_once(self) -> int:
        """The most messages of one load."""
        return 20_000 if self.quick else 60_000
