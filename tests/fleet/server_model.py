"""A model of the server that holds the directory: the commands that a fleet uses, with a clock of its own.

The scripts are recognised by what they call. test_scripts.py compares the model with a real server.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Optional

from offset_common.fleet.entries import Answer, Claim, Command


class ServerModel:
    """A server.

    Args:
        now: seconds, of its clock.
    """

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.full = False  # refuses to store more
        self.highest: dict[str, Claim] = {}  # the largest claim of each key that was ever stored
        self._values: dict[str, Any] = {}
        self._expires: dict[str, float] = {}

    def copy(self) -> ServerModel:
        """Return a replica in the current state; both record the largest claims in one table."""
        replica = copy.copy(self)
        replica._values = copy.deepcopy(self._values)
        replica._expires = dict(self._expires)
        return replica

    def lose_everything(self) -> None:
        """Forget all entries, as after a restart without a disk."""
        self._values.clear()
        self._expires.clear()

    def keys(self) -> list[str]:
        """Return the keys of all entries."""
        return [key for key in list(self._values) if self._get(key) is not None]

    def execute(self, commands: Sequence[Command]) -> list[Answer]:
        """Execute commands in order; an error is an answer."""
        return [self._execute(*command) for command in commands]

    def _execute(self, name: object, *arguments: Any) -> Answer:
        if name == "EVAL":
            script, count, *rest = arguments
            keys, values = rest[:count], rest[count:]
            if "TIME" in script:
                return self._reserve(keys[0], *values)
            if "PEXPIRE" in script:
                return self._claim(keys, *values)
            self._drop(keys, values)
            return None
        method = getattr(self, f"_{str(name).lower()}")
        answer: Answer = method(*arguments)
        return answer

    # Commands.

    def _get(self, key: str) -> Any:
        if self._expires.get(key, float("inf")) <= self.now:
            self._del(key)
        return self._values.get(key)

    def _mget(self, *keys: str) -> list[Any]:
        return [self._get(key) for key in keys]

    def _set(self, key: str, value: str, unit: str, milliseconds: int) -> Answer:
        assert unit == "PX"
        if self.full:
            return RuntimeError("OOM command not allowed when used memory > 'maxmemory'.")
        self._values[key] = value.encode()
        self._expires[key] = self.now + milliseconds / 1000
        return True

    def _pexpire(self, key: str, milliseconds: int) -> int:
        if self._get(key) is None:
            return 0
        self._expires[key] = self.now + milliseconds / 1000
        return 1

    def _del(self, key: str) -> int:
        self._expires.pop(key, None)
        return int(self._values.pop(key, None) is not None)

    def _sadd(self, key: str, member: str) -> Answer:
        if self.full:
            return RuntimeError("OOM command not allowed when used memory > 'maxmemory'.")
        self._get(key)
        self._values.setdefault(key, set()).add(member.encode())
        return 1

    def _srem(self, key: str, member: str) -> int:
        members = self._get(key) or set()
        members.discard(member.encode())
        if not members:
            self._del(key)
        return 1

    def _smembers(self, key: str) -> set[bytes]:
        return set(self._get(key) or ())

    # Scripts.

    def _reserve(self, key: str, floor: int, milliseconds: int) -> Answer:
        epoch = max(int(self._get(key) or 0) + 1, floor + 1, int(self.now * 1_000_000))
        stored = self._set(key, str(epoch), "PX", milliseconds)
        return stored if isinstance(stored, Exception) else str(epoch).encode()

    def _claim(self, keys: Sequence[str], host: str, milliseconds: int, *epochs: int) -> list[Answer]:
        answers: list[Answer] = []
        for key, epoch in zip(keys, epochs):
            current: Optional[bytes] = self._get(key)
            answer: Answer = current or b""
            if current == f"{epoch} {host}".encode():
                self._pexpire(key, milliseconds)
            elif current is None or int(current.split()[0]) < epoch:
                stored = self._set(key, f"{epoch} {host}", "PX", milliseconds)
                answer = stored if isinstance(stored, Exception) else answer
                if stored is True:
                    self.highest[key] = max(Claim(epoch, host), self.highest.get(key, Claim(0, "")))
            answers.append(answer)
        return answers

    def _drop(self, keys: Sequence[str], values: Sequence[str]) -> None:
        for key, value in zip(keys, values):
            if self._get(key) == value.encode():
                self._del(key)
