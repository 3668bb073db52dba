"""The thread that queries the directory, so that the event loop never waits for it.

Requests that have queued up meanwhile are sent together, in one pipeline.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from itertools import islice
from typing import Any, Callable, Optional, Union

from offset_common.fleet.entries import Answer, Command
from offset_common.fleet.library import Library
from offset_common.fleet.location import Location
from offset_common.fleet.requests import Request
from offset_common.threads import start

CLOSE_TIMEOUT = 3.0  # seconds for the last requests
HIDDEN = "***"

Result = Union[Sequence[Answer], str]
"""The answers to a request, or the reason why there are none."""


class Store:
    """A connection to the directory, used by a thread of its own.

    Args:
        location: where the directory is.
        any_key: a key of the fleet.
        deliver: called in the thread with the number of each request and its result.
    """

    def __init__(self, location: Location, any_key: str, deliver: Callable[[int, Result], None]) -> None:
        self._location = location
        self._any_key = any_key
        self._deliver = deliver
        self._library = Library()
        self._client: Any = None
        self._queue: queue.SimpleQueue[Optional[Request]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="fleet-directory", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        start(self._thread)

    def send(self, request: Request) -> None:
        """Queue a request; `deliver` will be called with its result."""
        self._queue.put(request)

    def close(self) -> None:
        """End the thread after the queued requests; wait for at most CLOSE_TIMEOUT."""
        self._queue.put(None)
        self._thread.join(CLOSE_TIMEOUT)

    def _run(self) -> None:
        more = True
        while more:
            requests = [self._queue.get()]
            while not self._queue.empty():
                requests.append(self._queue.get())
            more = None not in requests
            self._execute([request for request in requests if request is not None])

    def _execute(self, requests: Sequence[Request]) -> None:
        if not requests:
            return
        try:
            answers = self._ask([command for request in requests for command in request.commands])
        except Exception as error:  # the libraries raise many kinds: their own, OSError, ValueError
            self._disconnect()
            for request in requests:
                self._deliver(request.number, self._reason(error))
            return
        left = iter(answers)
        for request in requests:
            self._deliver(request.number, list(islice(left, len(request.commands))))

    def _ask(self, commands: Sequence[Command]) -> list[Answer]:
        if self._client is None:
            self._client = self._library.connect(self._location, self._any_key)
        answers = _run(self._client, commands)
        servers = (self._library.moved_to(answer, self._client) for answer in answers)
        moved_to = next(filter(None, servers), None)
        if moved_to is not None:
            self._disconnect()
            self._client = self._library.connect_at(self._location, moved_to)
            answers = _run(self._client, commands)  # all commands may be repeated
        self._ask_elsewhere(commands, answers)
        for answer in answers:
            if isinstance(answer, Exception) and self._library.is_failure(answer):
                raise answer
        return answers

    def _ask_elsewhere(self, commands: Sequence[Command], answers: list[Answer]) -> None:
        """Ask again about keys that are moving to another server of a cluster; replace the answers.

        Source: "ASK redirection" in the cluster specification of Valkey and Redis.
        """
        servers = [self._library.asks(answer, self._client) for answer in answers]
        for server in set(filter(None, servers)):  # at most one
            numbers = [number for number, each in enumerate(servers) if each == server]
            client = self._library.connect_at(self._location, server)
            try:
                found = _run(client, [each for n in numbers for each in (("ASKING",), commands[n])])
            finally:
                client.connection_pool.disconnect()
            for number, answer in zip(numbers, found[1::2]):
                answers[number] = answer

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            try:
                client.connection_pool.disconnect()
            except Exception:
                pass  # the connection is already gone

    def _reason(self, error: BaseException) -> str:
        """Return one line about an error, without passwords."""
        text = " ".join(str(error).split()) or type(error).__name__
        secrets = (self._location.password, self._location.options.get("sentinel-password"))
        for secret in secrets:
            if secret:
                text = text.replace(secret, HIDDEN)
        return text


def _run(client: Any, commands: Sequence[Command]) -> list[Answer]:
    """Execute commands in one pipeline; an error is an answer."""
    pipeline = client.pipeline(transaction=False)
    for command in commands:
        pipeline.execute_command(*command)
    answers: list[Answer] = pipeline.execute(raise_on_error=False)
    return answers
