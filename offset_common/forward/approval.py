"""Ask the user at the terminal whether an unknown key may connect, one question at a time.

Anyone who has the code can cause a question, so a few strangers must not flood the terminal: at most
MAX_WAITING keys wait, and after MAX_REFUSED refusals in a row there are no more questions. A background job
of a shell asks nothing. A line answers only a question that was on the screen when it was typed.
"""

from __future__ import annotations

import signal
import sys
import termios
import threading
import time
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Callable, Optional

from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.threads import start_thread
from offset_common.tools.terminal import is_terminal, may_read

MAX_WAITING = 4
MAX_REFUSED = 3
BACKGROUND_CHECK = 0.5  # seconds

Answered = Callable[[Optional[bool]], object]


class Approval:
    """The questions of one process.

    Args:
        loop: answers are reported in it.
        display: shows the questions.
    """

    def __init__(self, loop: EventLoop, display: Display) -> None:
        self._loop = loop
        self._display = display
        self._waiting: deque[tuple[str, Callable[[], bool], Answered]] = deque()
        self._asking: Optional[Answered] = None
        self._number = 0  # of the last question
        self._refused = 0
        self._possible = not display.as_json and is_terminal(sys.stdin) and is_terminal(sys.stderr)
        self._reader_started = False
        self._handled = threading.Semaphore(0)  # released when the event loop has handled a line

    @property
    def possible(self) -> bool:
        """Whether the user can be asked now. Any thread may read this."""
        free = self._refused < MAX_REFUSED and len(self._waiting) < MAX_WAITING
        return self._possible and free and may_read(sys.stdin)

    def ask(self, question: str, needed: Callable[[], bool], answered: Answered) -> None:
        """Ask a question when its turn comes.

        Args:
            question: one line.
            needed: called first; if it returns False, nobody is asked.
            answered: called with True for yes, False for any other line, and None if nobody can answer now.
        """
        self._waiting.append((question, needed, answered))
        self._ask_next()

    def _ask_next(self) -> None:
        while self._asking is None and self._waiting:
            question, needed, answered = self._waiting.popleft()
            if needed():
                self._asking = answered
                self._number += 1
                if may_read(sys.stdin):
                    with suppress(termios.error, ValueError):
                        termios.tcflush(sys.stdin, termios.TCIFLUSH)  # lines typed before the question
                self._start_reader()
                self._display.ask(f"{question} y/N")

    def _start_reader(self) -> None:
        if self._reader_started:
            return
        self._reader_started = True
        # In the background, reading fails from now on, and does not stop this process.
        signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        try:
            start_thread(self._read, "offset question")
        except OSError:
            self._loop.call_soon_threadsafe(partial(self._answer, self._number, ""))

    def _read(self) -> None:
        line = "?"
        while line:
            line = _read_line()
            self._loop.call_soon_threadsafe(partial(self._handle, self._number, line))
            self._handled.acquire()  # otherwise a line could be read before the next question discards it

    def _handle(self, number: int, line: str) -> None:
        self._answer(number, line)
        self._handled.release()

    def _answer(self, number: int, line: str) -> None:
        self._possible = self._possible and line != ""
        if self._asking is None or (line and number != self._number):
            return  # a line that was typed before the question, or without one
        answered, self._asking = self._asking, None
        yes = line.strip().lower() in ("y", "yes") if line else None
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
