"""The thread that writes the usage file. A disk may be slow, full or locked; the relay does not wait for it.

Volumes that cannot be written are kept, and written with the next ones.
"""

from __future__ import annotations

import threading
from queue import SimpleQueue
from typing import Callable, Optional

from offset_common.errors import FileError
from offset_common.policy.usage import UsageBusyError, UsageFile, Volume, Volumes
from offset_common.threads import start

CLOSE_TIMEOUT = 5.0  # seconds that the last write may take

Loaded = Callable[[str, Volumes], None]
Failed = Callable[[str], None]


class UsageWriter:
    """Adds volumes to a usage file, and reads the earlier volumes of new months.

    Args:
        file: the file.
        loaded: called with a month and its volumes in the file, before the first volumes of that month are
            added, unless they were read at startup.
        failed: called with the reason each time the file cannot be written or read.

    Both are called in the thread of the writer.
    """

    def __init__(self, file: UsageFile, loaded: Loaded, failed: Failed) -> None:
        self._file = file
        self._loaded = loaded
        self._failed = failed
        self._tasks: SimpleQueue[Optional[tuple[str, Volumes]]] = SimpleQueue()
        self._unwritten: dict[str, dict[bytes, Volume]] = {}  # by month and key
        self._known_month: Optional[str] = None
        self._thread = threading.Thread(target=self._run, name="usage", daemon=True)

    def start(self, known_month: Optional[str]) -> None:
        """Start the thread.

        Args:
            known_month: the month that was read at startup; None if the file could not be read.
        """
        self._known_month = known_month
        start(self._thread)

    def add(self, month: str, volumes: Volumes) -> None:
        """Add volumes; with none, only retry what failed."""
        self._tasks.put((month, volumes))

    def close(self) -> bool:
        """Write what is left; return whether that succeeded in time."""
        self._tasks.put(None)
        self._thread.join(CLOSE_TIMEOUT)
        return not self._thread.is_alive() and not self._unwritten

    def _run(self) -> None:
        month = ""
        while (task := self._tasks.get()) is not None:
            month = task[0]
            self._keep(*task)
            self._work(month)
        if self._unwritten:
            self._work(month)

    def _keep(self, month: str, volumes: Volumes) -> None:
        if volumes:
            kept = self._unwritten.setdefault(month, {})
            for key, volume in volumes.items():
                kept[key] = kept.get(key, Volume()).plus(volume)

    def _work(self, month: str) -> None:
        try:
            # First: the earlier volumes must not include what this relay adds. A new month may already be in
            # the file: other relays may share it, or the clock was wrong when this one started.
            if month != self._known_month:
                volumes = self._file.load(month)
                self._known_month = month
                self._loaded(month, volumes)
            for unwritten in list(self._unwritten):
                self._file.add(unwritten, self._unwritten[unwritten])
                del self._unwritten[unwritten]
        except (FileError, UsageBusyError) as error:
            self._failed(error.reason if isinstance(error, FileError) else str(error))
        except Exception as error:  # a bug costs this attempt, not all later ones
            self._failed(repr(error))
