"""The thread that talks to the directory, with a client of the test."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from offset_common.fleet.library import Library
from offset_common.fleet.location import parse_location
from offset_common.fleet.requests import Request
from offset_common.fleet.store import Store
from tests.support.process import PATIENCE

COUNT = 3000  # requests of a flood


class Client:
    """Answers each command with its last word, when the test allows it.

    Args:
        may_answer: each pipeline waits for one permit.
    """

    def __init__(self, may_answer: threading.Semaphore) -> None:
        self._may_answer = may_answer
        self._commands: list[tuple[Any, ...]] = []

    def pipeline(self, transaction: bool) -> Client:
        """Return a new pipeline."""
        return Client(self._may_answer)

    def execute_command(self, *command: Any) -> None:
        """Add a command."""
        self._commands.append(command)

    def execute(self, raise_on_error: bool) -> list[Any]:
        """Return the answers."""
        assert self._may_answer.acquire(timeout=PATIENCE)
        return [command[-1] for command in self._commands]


def test_queued_requests_cost_one_round_trip(monkeypatch: pytest.MonkeyPatch) -> None:
    may_answer = threading.Semaphore(0)
    monkeypatch.setattr(Library, "__init__", lambda self: None)
    monkeypatch.setattr(Library, "connect", lambda *_: Client(may_answer))
    delivered: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
    directory = Store(
        parse_location("valkey://h"), "key", lambda number, result: delivered.put((number, result))
    )
    for number in range(COUNT):
        directory.send(Request(number, [("GET", number), ("GET", -number)]))
    directory.start()
    may_answer.release()
    assert [delivered.get(timeout=PATIENCE) for _ in range(COUNT)] == [
        (number, [number, -number]) for number in range(COUNT)
    ]
    directory.close()
