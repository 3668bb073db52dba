"""How much to measure, and the types that all measurements share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Callable, NamedTuple, Union

from offset_common.errors import OperatorError

Figures = dict[str, Union[float, str]]
"""One row of the table: its name under "row", and its figures."""

Report = Callable[[Figures], None]
"""Called with each row once it is measured."""


class SkippedError(OperatorError):
    """A row that cannot be measured on this machine."""


class Options(NamedTuple):
    """How much to measure.

    Args:
        quick: run shorter and fewer rounds.
        verify: decrypt and check what every tunnel delivers, in a single round.
    """

    quick: bool
    verify: bool

    def rounds(self) -> Iterator[int]:
        """Yield the number of each round; a round runs each load of a row once.

        The best round counts, because other programs on the machine only make figures worse. Short loads get
        more rounds.
        """
        fewest, most = (1, 1) if self.verify else (2, 8) if self.quick else (5, 16)
        end = time.monotonic() + (1.2 if self.quick else 8.0)
        for number in range(most):
            if number >= fewest and time.monotonic() > end:
                return
            yield number

    @property
    def load_size(self) -> int:
        """The bytes of sealed input in one load."""
        return (20 if self.quick else 80) << 20

    @property
    def max_messages(self) -> int:
        """The maximum number of messages in one load."""
        return 20_000 if self.quick else 120_000
