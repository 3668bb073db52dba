"""What a person may choose about a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Union

from offset_common.errors import OperatorError

Figures = dict[str, Union[float, str]]
"""One row of the table: its name under "row", and the figures."""


class SkippedError(OperatorError):
    """A row cannot be measured here."""


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

    def rounds(self) -> Iterator[int]:
        """Number the rounds in which each load of a row runs once.

        The best run counts, as others on the machine only ever make it worse; short loads get more rounds.
        """
        least, most = (1, 1) if self.verify else (2, 8) if self.quick else (5, 16)
        enough = time.monotonic() + (1.2 if self.quick else 8.0)
        for number in range(most):
            if number >= least and time.monotonic() > enough:
                return
            yield number

    @property
    def bytes_at_once(self) -> int:
        """The bytes of sealed input of one load."""
        return (20 if self.quick else 80) << 20

    @property
    def messages_at_once(self) -> int:
        """The most messages of one load."""
        return 20_000 if self.quick else 120_000
