"""Ask the event loop for snapshots, at most once a second, and keep the latest."""

from __future__ import annotations

import queue
import time
from typing import Optional

from offset_common.errors import OffsetError
from offset_common.status.survey import Detail, Result, Snapshot, Survey, SurveyedRelay

MAX_AGE = 1.0  # seconds for which a snapshot, or the lack of one, is the answer to all requests
PATIENCE = 3.0  # seconds that the event loop may take: a supervisor waits longer for /healthz


class NoSnapshotError(OffsetError):
    """The event loop provided no snapshot."""


class Snapshots:
    """The snapshots of one relay, for the status thread alone.

    Args:
        relay: the relay.
    """

    def __init__(self, relay: SurveyedRelay) -> None:
        self._relay = relay
        self._last: dict[Detail, tuple[float, Result]] = {}  # with the time of each answer

    def get(self, detail: Detail) -> Snapshot:
        """Return a snapshot that is at most MAX_AGE old and has at least `detail`.

        Raises:
            NoSnapshotError: the event loop is busy for too long, or cannot make a snapshot.
        """
        result = self._cached(detail) or self._ask(detail)
        if isinstance(result, Exception):
            raise NoSnapshotError(str(result))
        return result

    def _cached(self, detail: Detail) -> Optional[Result]:
        oldest = time.monotonic() - MAX_AGE
        for each in Detail:
            if each >= detail and each in self._last and self._last[each][0] > oldest:
                return self._last[each][1]
        return None

    def _ask(self, detail: Detail) -> Result:
        # One queue for each request, so that a late answer is not mistaken for that of the next request.
        answers: queue.SimpleQueue[Result] = queue.SimpleQueue()
        self._relay.loop.call_soon_threadsafe(Survey(self._relay, detail, answers.put).step)
        result: Result
        try:
            result = answers.get(timeout=PATIENCE)
        except queue.Empty:
            result = NoSnapshotError(f"the event loop did not answer within {PATIENCE:g} s")
        self._last[detail] = time.monotonic(), result
        return result
