"""Requests to the directory that wait for answers. There are no sockets, threads or clocks here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple

from offset_common.fleet.entries import Answer, Command

Answered = Callable[[Sequence[Answer], float], None]
"""Called with the answers, one for each command, and the time in seconds."""


class Request(NamedTuple):
    """Commands that are executed in order.

    Args:
        number: identifies its answers.
        commands: at least one.
    """

    number: int
    commands: Sequence[Command]


class Requests:
    """The requests to be sent, and those under way."""

    def __init__(self) -> None:
        self._next = 0
        self._ready: list[Request] = []
        self._answered: dict[int, Answered] = {}

    def __len__(self) -> int:
        """Return the number of requests that wait for answers."""
        return len(self._answered)

    def add(self, commands: Sequence[Command], answered: Answered) -> None:
        """Queue commands to be sent; `answered` is called unless the request fails."""
        self._ready.append(Request(self._next, commands))
        self._answered[self._next] = answered
        self._next += 1

    def take(self) -> list[Request]:
        """Return the requests to send now, each once."""
        ready, self._ready = self._ready, []
        return ready

    def answer(self, number: int, answers: Sequence[Answer], now: float) -> None:
        """Handle the answers to a request, unless it has already failed or been answered."""
        answered = self._answered.pop(number, None)
        if answered is not None:
            answered(answers, now)

    def forget(self, number: int) -> bool:
        """Forget a request that failed; return whether it was still under way."""
        return self._answered.pop(number, None) is not None

    def forget_all(self) -> None:
        """Forget all requests: late answers are ignored."""
        self._ready.clear()
        self._answered.clear()
