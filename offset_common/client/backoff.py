"""The delay between attempts to reach a relay."""

from __future__ import annotations

import random
from typing import Callable

FIRST_DELAY = 0.25  # seconds before the first retry
MAX_DELAY = 30.0  # seconds between retries, at most
STEADY_TIME = 30.0  # seconds; after a listener has lived this long, delays start again at FIRST_DELAY


class Backoff:
    """The delay before each retry: exponential backoff with jitter.

    The jitter keeps many nodes that lost the same relay from reconnecting at the same moment.

    Args:
        random_fraction: returns a number from 0 to 1.
    """

    def __init__(self, random_fraction: Callable[[], float] = random.random) -> None:
        self._random_fraction = random_fraction
        self._delay = FIRST_DELAY

    def next(self) -> float:
        """Return the next delay in seconds."""
        delay = self._delay
        self._delay = min(MAX_DELAY, delay * 2)
        return delay * (1 + self._random_fraction()) / 2

    def listener_ended(self, age: float) -> None:
        """Start again at FIRST_DELAY if a listener lived long enough.

        Only a long life counts: otherwise two programs with the same key would replace each other without
        ever slowing down.

        Args:
            age: how long the listener lived, in seconds.
        """
        if age > STEADY_TIME:
            self._delay = FIRST_DELAY
