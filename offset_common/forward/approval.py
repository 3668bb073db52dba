"""Ask the person at the terminal whether an unknown key may come in, one question at a time.

Anyone who has the code can cause a question, so a few strangers must not flood the terminal: at most
MAX_WAITING keys wait, and after MAX_REFUSED refusals in a row there are no more questions. A background job
of a shell asks nothing.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from typing import Callable, Optional

from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.tools.terminal import is_terminal, may_read

MAX_WAITING = 4
MAX_REFUSED = 3
BACKGROUND_CHECK = 0.5  # seconds

Answered = Callable[[bool], object]


class Approval:
    """The questions of one process.

    Args:
        loop: answers are reported in it.
        display: shows the questions.
    """

    def __init__(self, loop: EventLoop, display: Display) -> None:
        self._loop = loop
        self._display = display
        self._waiting: deque[tuple[str, Answered]] = deque()
        self._asking: Optional[Answered] = None
        self._refused = 0
        self._possible = not display.as_json and is_terminal(sys.stdin) and is_terminal(sys.stderr)
        self._reader_started = False

    @property
    def possible(self) -> bool:
        """Whether a person can be asked now. Any thread may read this."""
        free = self._refused < MAX_REFUSED and len(self._waiting) < MAX_WAITING
        return self._possible and free and may_read(sys.stdin)

    def ask(self, question: str, answered: Answered) -> None:
        """Ask a question; call `answered` with True for yes and False for anything else."""
        self._waiting.append((question, answered))
        if self._asking is None:
            self._ask_next()

    def _ask_next(self) -> None:
        if self._asking is None and self._waiting:
            question, self._asking = self._waiting.popleft()
            self._display.ask(f"{question} y/N")
            if not self._reader_started:
                self._reader_started = True
                # In the background, reading fails from now on, and does not stop this process.
                signal.signal(signal.SIGTTIN, signal.SIG_IGN)
                threading.Thread(target=self._read, name="offset question", daemon=True).start()

    def _read(self) -> None:
        line = "?"
        while line:
            line = _read_line()
            answer = line.strip().lower() in ("y", "yes")
            self._loop.call_soon_threadsafe(lambda given=answer, end=not line: self._answer(given, end))  # type: ignore[misc]

    def _answer(self, yes: bool, end: bool) -> None:
        self._possible = self._possible and not end
        answered, self._asking = self._asking, None
        if answered is None:
            return  # a line that was typed without a question
        self._refused = 0 if yes else self._refused + 1
        self._display.asked()
        answered(yes)
        self._ask_next()


def _read_line() -> str:
    """Return a line that was typed while this process was in the foreground, or "" at the end of input."""
    in_foreground = False
    while True:
        try:
            return sys.stdin.readline()
        except (OSError, ValueError):
            # It may have entered the foreground after the failure, so a single failure there is not the end.
            if in_foreground and may_read(sys.stdin):
                return ""
            in_foreground = may_read(sys.stdin)
            time.sleep(BACKGROUND_CHECK)
