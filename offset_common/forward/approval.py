"""Asks the person at the terminal whether an unknown key may come in: one question at a time.

Anyone who has the code can cause a question, so a few strangers must not flood the terminal: at most
MAX_WAITING keys wait, and after MAX_REFUSED refusals in a row there are no more questions.
"""

from __future__ import annotations

import sys
import threading
from collections import deque
from contextlib import suppress
from typing import Callable, Optional

from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.tools.terminal import is_terminal

MAX_WAITING = 4
MAX_REFUSED = 3

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
        """Whether a person can be asked now. Any thread may ask this."""
        return self._possible and self._refused < MAX_REFUSED and len(self._waiting) < MAX_WAITING

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
                threading.Thread(target=self._read, name="offset question", daemon=True).start()

    def _read(self) -> None:
        line = "?"
        while line:
            line = ""
            with suppress(OSError, ValueError):
                line = sys.stdin.readline()
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
