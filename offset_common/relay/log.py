"""Lines for the operator, on standard error.

A line never blocks and never fails the relay: where nobody reads the pipe, or the disk is full,
lines are kept up to a bound, then dropped and counted. Lines of one kind that strangers can bring
about in numbers are folded: a few of each kind in a minute, then their count.
"""

from __future__ import annotations

import os
import select
from typing import Optional

FOLD_AFTER = 10  # lines of one kind in a window that are written out
FOLD_WINDOW = 60.0  # seconds
MAX_PENDING = 256 * 1024  # bytes kept while nobody reads
WRITE_SIZE = 4096  # bytes: what a pipe that polls writable takes without blocking (PIPE_BUF)


class Log:
    """Writes lines to a file descriptor.

    Args:
        descriptor: where to, or None for nowhere. A terminal is opened once more: it says that it is writable
            where it takes a few bytes, and would block for the rest until somebody reads.
    """

    def __init__(self, descriptor: Optional[int] = 2) -> None:
        self._opened = _open_terminal(descriptor) if descriptor is not None else None
        self._descriptor = descriptor if self._opened is None else self._opened
        self._pending: list[bytes] = []
        self._pending_size = 0
        self._dropped = 0
        self._counts: dict[str, tuple[int, int]] = {}  # written, and folded
        self._window_end: Optional[float] = None
        self._poll = select.poll()
        if self._descriptor is not None:
            self._poll.register(self._descriptor, select.POLLOUT)

    def line(self, text: str) -> None:
        """Write one line, as soon as somebody takes it."""
        if self._descriptor is None:
            return
        data = text.encode("utf-8", "backslashreplace") + b"\n"
        if self._pending_size + len(data) > MAX_PENDING:
            self._dropped += 1
            return
        self._pending.append(data)
        self._pending_size += len(data)

    def folded(self, kind: str, text: str, now: float, most: int = FOLD_AFTER) -> None:
        """Write one line of a kind of which there may come very many, and `most` are written out."""
        if self._window_end is None:
            self._window_end = now + FOLD_WINDOW
        written, folded = self._counts.get(kind, (0, 0))
        if written < most:
            self.line(text)
            written += 1
        else:
            folded += 1
        self._counts[kind] = written, folded

    def next_time(self) -> Optional[float]:
        """Return when `handle_time` has counts to write, or None."""
        return self._window_end

    def handle_time(self, now: float) -> None:
        """Write the counts of what was folded, once their window is over."""
        if self._window_end is not None and now >= self._window_end:
            self._write_counts()

    def _write_counts(self) -> None:
        for kind, (_, folded) in self._counts.items():
            if folded:
                self.line(f"and {folded} more in the last minute: {kind}")
        self._counts.clear()
        self._window_end = None

    @property
    def pending(self) -> bool:
        """Whether lines wait to be written."""
        return bool(self._pending)

    def flush(self) -> None:
        """Write what can be written without blocking."""
        while self._pending and self._descriptor is not None:
            if self._dropped and self._pending_size < MAX_PENDING // 2:
                dropped, self._dropped = self._dropped, 0
                self.line(f"{dropped} log lines were lost: nobody read them")
            chunk = self._take_chunk()
            try:
                if not self._poll.poll(0):
                    written = 0
                else:
                    written = os.write(self._descriptor, chunk)
            except BlockingIOError:
                written = 0
            except OSError:
                self._dropped += chunk.count(b"\n")  # a full disk, or a reader that is gone
                return
            if written < len(chunk):
                self._pending.insert(0, chunk[written:])
                self._pending_size += len(chunk) - written
                return

    def close(self) -> None:
        """Write the counts and what still waits, as far as somebody takes it; later lines go nowhere."""
        self._write_counts()
        self.flush()
        self._descriptor = None
        if self._opened is not None:
            os.close(self._opened)
            self._opened = None

    def _take_chunk(self) -> bytes:
        size = taken = 0
        while taken < len(self._pending) and (taken == 0 or size + len(self._pending[taken]) <= WRITE_SIZE):
            size += len(self._pending[taken])
            taken += 1
        chunk = b"".join(self._pending[:taken])
        if len(chunk) > WRITE_SIZE:  # a traceback: its rest goes with the next one
            self._pending[taken - 1] = chunk[WRITE_SIZE:]
            taken -= 1
            chunk = chunk[:WRITE_SIZE]
        del self._pending[:taken]
        self._pending_size -= len(chunk)
        return chunk


def _open_terminal(descriptor: int) -> Optional[int]:
    # A descriptor of its own: whether the given one blocks is a matter of all programs that have it.
    try:
        return os.open(os.ttyname(descriptor), os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None  # no terminal, or one that may not be opened
