"""The latest log lines that matter: all except those that any connection can cause."""

from __future__ import annotations

import logging
from collections import deque
from typing import NamedTuple

from offset_common.relay.log import LOGGER
from offset_common.relay.log_format import value_text

KEPT = 50  # lines
MAX_VALUE = 300  # characters of one field


class Line(NamedTuple):
    """One line of the log, and how often it was logged in a row.

    Args:
        time: when it was last logged, in seconds of the system's clock.
        level: "info", "warning" or "error".
        event: what happened.
        fields: the details by name.
        times: how often it was logged in a row.
    """

    time: float
    level: str
    event: str
    fields: dict[str, str]
    times: int = 1


class RecentLog(logging.Handler):
    """Keeps the last lines of the relay's log until it is closed."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[Line] = deque(maxlen=KEPT)
        LOGGER.addHandler(self)

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a line matters: strangers can cause the others in any number."""
        return record.levelno > logging.INFO or getattr(record, "collapse", None) is None

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; if it repeats the event of the previous line, it replaces that line."""
        event = record.getMessage()
        values = getattr(record, "fields", {}).items()
        fields = {name: value_text(value)[:MAX_VALUE] for name, value in values if value is not None}
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = repr(record.exc_info[1])[:MAX_VALUE]
        times = 1
        if self._lines and (self._lines[-1].event, self._lines[-1].level) == (event, _level(record)):
            times += self._lines.pop().times
        self._lines.append(Line(record.created, _level(record), event, fields, times))

    def lines(self) -> list[Line]:
        """Return the lines, the newest first."""
        self.acquire()
        try:
            return list(reversed(self._lines))
        finally:
            self.release()

    def close(self) -> None:
        """Stop keeping lines."""
        LOGGER.removeHandler(self)
        super().close()


def _level(record: logging.LogRecord) -> str:
    return record.levelname.lower()
