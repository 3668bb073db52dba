"""Count the tunnels of each key on the sharing side, so that one key cannot use up all of them."""

from __future__ import annotations

import threading
from collections import Counter

from offset_common.counts import count_down

TUNNELS_PER_KEY = 64  # one for each stforward that runs there, and some that are about to end
TUNNELS = 256
UNKNOWN_TUNNELS = 4  # of all keys that the user is or will be asked about
UNKNOWN = b""  # stands for all these keys


class Places:
    """Counts tunnels from the connect until they are gone. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken: Counter[bytes] = Counter()

    def take(self, key: bytes) -> bool:
        """Take a place for a key, or for UNKNOWN; return False if none is left."""
        most = TUNNELS_PER_KEY if key else UNKNOWN_TUNNELS
        with self._lock:
            if self._taken[key] >= most or sum(self._taken.values()) >= TUNNELS:
                return False
            self._taken[key] += 1
            return True

    def give_back(self, key: bytes) -> None:
        """Free a place."""
        with self._lock:
            count_down(self._taken, key)
