"""The relay's log: a line per event, written to standard error without ever blocking.

`log_event` makes records of the logger `offset.relay`. A `RelayLog` is the handler that writes them; its
filter collapses lines that strangers can cause in large numbers. While a pipe is unread or a disk is full,
lines are kept up to a limit, then dropped and counted.

log_format.py has the formats of a line. In systemd's journal, which adds its own times, each line begins with
its priority.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import select
import sys
import threading
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, Callable, Optional, Union

from offset_common.relay.log_format import Format, add_priority, format_text

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
RETRY_INTERVAL = 1.0  # seconds before another attempt to write lines that could not be written


def log_event(
    event: str,
    level: int = logging.INFO,
    *,
    collapse: Optional[str] = None,
    collapse_by: str = "",
    exc_info: Optional[BaseException] = None,
    **fields: object,
) -> None:
    """Log one event.

    docs/logs.md lists all events with their levels and fields.

    Args:
        event: what happened; a constant.
        level: INFO, WARNING or ERROR of logging.
        collapse: the kind of line, if strangers can repeat it at will; a constant.
        collapse_by: the IPv4 address or IPv6 prefix by which repeats of a kind are counted.
        exc_info: an exception, for the field `traceback`.
        fields: details; a value may be a list of strings or counts by name. None is left out.
    """
    if not LOGGER.isEnabledFor(level):
        return
    values = {
        "name": LOGGER.name,
        "msg": event,
        "levelno": level,
        "levelname": logging.getLevelName(level),
        "exc_info": exc_info and (type(exc_info), exc_info, exc_info.__traceback__),
        "fields": fields,
        "collapse": collapse,
        "collapse_by": collapse_by,
    }
    # LOGGER.log would also look up the calling line of code, and take ten times as long.
    LOGGER.handle(logging.makeLogRecord(values))


def goes_to_journal(descriptor: int) -> bool:
    """Return whether output to `descriptor` goes to systemd's journal.

    Programs inherit JOURNAL_STREAM even if their output goes elsewhere.

    Source: JOURNAL_STREAM in systemd.exec(5).
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


@contextlib.contextmanager
def everything_logged() -> Iterator[None]:
    """Log what Python would print: warnings, and exceptions that end a thread or occur in a finalizer."""
    printers = (threading.excepthook, sys.unraisablehook, warnings.showwarning)

    def log_error(details: Any) -> None:
        log_event("bug", logging.ERROR, collapse="bug", exc_info=details.exc_value)

    def log_warning(message: Union[Warning, str], *_: Any, **__: Any) -> None:
        log_event("Python warning", logging.WARNING, collapse="bug", text=str(message))

    threading.excepthook = sys.unraisablehook = log_error
    warnings.showwarning = log_warning
    try:
        yield
    finally:
        threading.excepthook, sys.unraisablehook, warnings.showwarning = printers


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
        clock: returns the time in seconds, for the windows of repeated lines.
        lines_of: formats a record.
    """

    def __init__(
        self,
        descriptor: Optional[int] = 2,
        clock: Callable[[], float] = time.monotonic,
        lines_of: Format = format_text,
    ) -> None:
        super().__init__()
        self.pending = bytearray()  # lines to be written
        self._lost = 0
        self._lines_of = lines_of
        self._poll = select.poll()
        self._clock = clock
        self._repeats = RepeatFilter(clock)
        self.addFilter(self._repeats)
        self._terminal: Optional[int] = None
        self._to_journal = False
        if descriptor is not None:
            self._to_journal = goes_to_journal(descriptor)
            self._terminal = _open_terminal(descriptor)
            self._descriptor = descriptor if self._terminal is None else self._terminal
            self._poll.register(self._descriptor, select.POLLOUT)
            LOGGER.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record for `flush`."""
        lines = self._lines_of(record, not self._to_journal)
        if self._to_journal:
            lines = add_priority(lines, record.levelno)
        data = lines.encode("ascii")
        if len(self.pending) + len(data) > MAX_PENDING:
            self._lost += 1
        else:
            self.pending += data

    def flush(self) -> None:
        """Write what can be written without blocking."""
        with contextlib.suppress(OSError):  # a full disk, or a closed pipe: try again next time
            while self.pending and self._poll.poll(0):
                # Whole lines, because during an upgrade in place another process writes to the same pipe.
                size = self.pending.rfind(b"\n", 0, WRITE_SIZE) + 1 or WRITE_SIZE
                del self.pending[: os.write(self._descriptor, self.pending[:size])]
                if self._lost and len(self.pending) < MAX_PENDING // 2:
                    lost, self._lost = self._lost, 0
                    log_event("log lines lost", logging.WARNING, count=lost)

    def next_time(self) -> float:
        """Return when `handle_time` has work: summaries, or lines that could not be written."""
        return self._clock() + RETRY_INTERVAL if self.pending else self._repeats.window_end

    def handle_time(self) -> None:
        """Log summaries of repeated lines if their window is over, and write what is queued."""
        if self._clock() >= self._repeats.window_end:
            self._repeats.end_window()
        if self.pending:
            self.flush()

    def close(self) -> None:
        """Write summaries and what can be written without blocking; discard all later records."""
        self._repeats.end_window()
        self.flush()
        self.pending.clear()
        LOGGER.removeHandler(self)
        if self._terminal is not None:
            os.close(self._terminal)
            self._terminal = None
        super().close()


def _open_terminal(descriptor: int) -> Optional[int]:
    # A terminal polls writable if it accepts a few bytes, then blocks for the rest. O_NONBLOCK on the given
    # descriptor would affect every program that shares it, so the terminal is opened again.
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None  # not a terminal, or one that may not be opened
