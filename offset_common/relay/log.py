"""The relay's log: a line per event, written to standard error without ever blocking.

`log_event` makes records of the logger `offset.relay`. A `RelayLog` is the handler that writes them; its
filter collapses lines that strangers can cause in large numbers. While a pipe is unread or a disk is full,
lines are kept up to a limit, then dropped and counted.

Each line starts with its time in UTC, unless it goes to the journal of systemd, which has its own times.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import re
import select
import textwrap
import time
from collections import Counter, defaultdict
from typing import Callable, Optional

LOGGER = logging.getLogger("offset.relay")
LOGGER.propagate = False
LOGGER.setLevel(logging.INFO)
LOGGER.addHandler(logging.NullHandler())  # without any handler, logging itself prints warnings, and may block

WINDOW = 60.0  # seconds
LINES_PER_ADDRESS = 10  # of one kind in a window
LINES_PER_KIND = 100  # over all addresses, in a window
MAX_ADDRESSES = 500  # remembered for a kind in a window; others are counted without their address
MAX_PENDING = 256 * 1024  # bytes
WRITE_SIZE = 4096  # bytes that a writable pipe takes without blocking (PIPE_BUF)
LEVELS = {logging.WARNING: "warning: ", logging.ERROR: "error: "}
UNQUOTED = re.compile(r"[!#-~]+")  # printable ASCII without spaces and double quotes


def log_event(
    event: str,
    level: int = logging.INFO,
    *,
    collapse: Optional[str] = None,
    collapse_by: str = "",
    exc_info: Optional[BaseException] = None,
    **fields: object,
) -> None:
    """Log one event as `event: key=value key="value with spaces"`; None values are left out.

    Args:
        event: what happened; a constant.
        level: INFO, WARNING or ERROR of logging.
        collapse: the kind of line, if strangers can repeat it at will; a constant.
        collapse_by: what repeats of a kind are counted by, such as an IPv4 address or an IPv6 prefix.
        exc_info: an exception whose traceback follows the line.
    """
    extra = {"event": event, "fields": fields, "collapse": collapse, "collapse_by": collapse_by}
    LOGGER.log(level, event, exc_info=exc_info, extra=extra, stacklevel=2)


def format_time(seconds: float) -> str:
    """Return a time since 1970 in the form of ISO 8601, in UTC: 2026-11-27T13:28:36.123Z."""
    milliseconds = int(seconds * 1000)
    day_and_time = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(milliseconds // 1000))
    return f"{day_and_time}.{milliseconds % 1000:03}Z"


def goes_to_journal(descriptor: int) -> bool:
    """Return whether what is written to `descriptor` goes to the journal of systemd.

    Programs inherit the variable even if their output goes elsewhere.

    Source: JOURNAL_STREAM in systemd.exec(5).
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def format_record(record: logging.LogRecord) -> str:
    """Return the text of a record, without its time; a traceback follows its line, indented."""
    text = LEVELS.get(record.levelno, "") + record.getMessage()
    separator = ": "
    for name, value in getattr(record, "fields", {}).items():
        if value is not None:
            shown = str(round(value, 3) if isinstance(value, float) else value)
            # JSON escapes line breaks and control characters, so no value can forge a line.
            text += f"{separator}{name}={shown if UNQUOTED.fullmatch(shown) else json.dumps(shown)}"
            separator = " "
    if record.exc_info:
        text += "\n" + textwrap.indent(logging.Formatter().formatException(record.exc_info), "  ")
    return text + "\n"


class RepeatFilter(logging.Filter):
    """Passes the first lines of a kind and address in a window, and counts the rest."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self._written: defaultdict[str, Counter[str]] = defaultdict(Counter)  # by kind, then address
        self._left_out: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self.window_end = math.inf

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether to write a record."""
        kind, address = getattr(record, "collapse", None), getattr(record, "collapse_by", "")
        if kind is None:
            return True
        if self.window_end == math.inf:
            self.window_end = self._clock() + WINDOW
        written, left_out = self._written[kind], self._left_out[kind]
        if written[address] < LINES_PER_ADDRESS and sum(written.values()) < LINES_PER_KIND:
            written[address] += 1
            return True
        left_out[address if address in left_out or len(left_out) < MAX_ADDRESSES else ""] += 1
        return False

    def end_window(self) -> None:
        """Log a summary of each kind and forget all counts."""
        for kind, counts in self._left_out.items():
            if total := sum(counts.values()):
                del counts[""]
                most = max(counts, key=counts.__getitem__, default=None)
                known = len(counts) or None
                log_event("repeated lines left out", kind=kind, count=total, addresses=known, most_from=most)
        self._written.clear()
        self._left_out.clear()
        self.window_end = math.inf


class RelayLog(logging.Handler):
    """Writes the records of `offset.relay` to a file descriptor until it is closed.

    Args:
        descriptor: where to write; None discards all records.
        clock: returns the time in seconds that windows of repeated lines are measured by.
    """

    def __init__(self, descriptor: Optional[int] = 2, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._pending = bytearray()
        self._lost = 0
        self._poll = select.poll()
        self._repeats = RepeatFilter(clock)
        self.addFilter(self._repeats)
        self._terminal: Optional[int] = None
        self._writes_times = True
        if descriptor is not None:
            self._writes_times = not goes_to_journal(descriptor)
            self._terminal = _open_terminal(descriptor)
            self._descriptor = descriptor if self._terminal is None else self._terminal
            self._poll.register(self._descriptor, select.POLLOUT)
            LOGGER.addHandler(self)

    @property
    def pending(self) -> bool:
        """Whether lines wait to be written."""
        return bool(self._pending)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record for `flush`."""
        text = self._time_prefix(record.created) + format_record(record)
        data = text.encode("utf-8", "backslashreplace")
        if len(self._pending) + len(data) > MAX_PENDING:
            self._lost += 1
        else:
            self._pending += data

    def flush(self) -> None:
        """Write what can be written without blocking."""
        with contextlib.suppress(OSError):  # a full disk, or a closed pipe: try again next time
            while self._pending and self._poll.poll(0):
                del self._pending[: os.write(self._descriptor, self._pending[:WRITE_SIZE])]
                if self._lost and len(self._pending) < MAX_PENDING // 2:
                    now = self._time_prefix(time.time())
                    self._pending += f"{now}warning: log lines lost: count={self._lost}\n".encode()
                    self._lost = 0

    def _time_prefix(self, seconds: float) -> str:
        return f"{format_time(seconds)} " if self._writes_times else ""

    def next_deadline(self) -> float:
        """Return when `handle_time` has summaries to write."""
        return self._repeats.window_end

    def handle_time(self, now: float) -> None:
        """Log summaries of repeated lines if their window is over."""
        if now >= self._repeats.window_end:
            self._repeats.end_window()

    def close(self) -> None:
        """Write summaries and what can be written without blocking; discard all later records."""
        self._repeats.end_window()
        self.flush()
        self._pending.clear()
        LOGGER.removeHandler(self)
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        super().close()


def _open_terminal(descriptor: int) -> Optional[int]:
    # A terminal polls writable when it takes a few bytes, then blocks for the rest. O_NONBLOCK on the given
    # descriptor would affect every program that shares it, so the terminal is opened again.
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None  # not a terminal, or one that may not be opened
