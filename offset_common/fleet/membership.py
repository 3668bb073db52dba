"""The hosts of the fleet: this one keeps its entry alive, and finds out which others are alive.

    heartbeat:  extend own entry, list all hosts --> read the listed ones --> forget those without an entry

There are no sockets, threads or clocks here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable

from offset_common.fleet.entries import Answer, Entries, Host
from offset_common.fleet.requests import Requests

BEAT_INTERVAL = 2.5  # seconds, a quarter of HOST_TTL
MAX_HOSTS = 1000


class Membership:
    """This host among the others.

    Args:
        entries: makes the commands.
        own: this host.
        requests: sends them.
        alive: called after each heartbeat with whether this host's entry was still there, and the time.
        stored: called with the reason if this host's entry is refused, or "" if it is stored.
    """

    def __init__(
        self,
        entries: Entries,
        own: Host,
        requests: Requests,
        alive: Callable[[bool, float], None],
        stored: Callable[[str], None],
    ) -> None:
        self.hosts: dict[str, Host] = {own.id: own}
        self._entries = entries
        self._own = own
        self._requests = requests
        self._alive = alive
        self._stored = stored
        self._next_beat = -math.inf
        self._left = False

    def next_time(self) -> float:
        """Return the time of the next heartbeat."""
        return math.inf if self._left else self._next_beat

    def beat_at(self, when: float) -> None:
        """Change the time of the next heartbeat."""
        self._next_beat = when

    def beat(self, now: float) -> None:
        """Begin a heartbeat if it is time; the next one waits for its answer."""
        if now < self._next_beat or self._left:
            return
        self._next_beat = math.inf
        commands = [*self._entries.show_host(self._own), self._entries.list_hosts()]
        self._requests.add(commands, self._beaten)

    def add(self, host: Host) -> None:
        """Add a host that was found before a heartbeat listed it."""
        self.hosts[host.id] = host

    def leave(self) -> None:
        """Remove this host from the directory for good."""
        self._left = True
        self._requests.add(self._entries.remove_host(self._own.id), lambda answers, now: None)

    def _beaten(self, answers: Sequence[Answer], now: float) -> None:
        self._next_beat = now + BEAT_INTERVAL
        extended, stored, *_, listed = answers
        members = listed if isinstance(listed, (set, list)) else ()
        ids = {each.decode("ascii", "replace") for each in members if isinstance(each, bytes)}
        others = sorted(ids - {self._own.id})[:MAX_HOSTS]
        if others:
            self._requests.add(
                [self._entries.read_hosts(others)], lambda answers, now: self._read(others, answers[0], now)
            )
        else:
            self.hosts = {self._own.id: self._own}
        self._alive(extended in (1, True), now)
        self._stored(str(stored) if isinstance(stored, Exception) else "")

    def _read(self, ids: Sequence[str], values: Answer, now: float) -> None:
        if not isinstance(values, list) or len(values) != len(ids):
            return
        hosts = {self._own.id: self._own}
        gone = []
        for each, value in zip(ids, values):
            host = self._entries.host_in(each, value)
            if host is not None:
                hosts[each] = host
            elif value is None:
                gone.append(self._entries.forget_host(each))
        self.hosts = hosts
        if gone:
            self._requests.add(gone, lambda answers, now: None)
