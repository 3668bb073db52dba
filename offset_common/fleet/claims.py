"""The listeners of this host in the directory: given epochs, claimed, extended and dropped, in batches.

    listen --> needs an epoch --> needs a claim --> claimed --> extended every REFRESH_INTERVAL
                                                       |
                                                       +--> lost to a newer listener of another host

An epoch is reserved after the listener has arrived, and claimed in a later request. So a claim can be
repeated at will: one that is executed late or twice never replaces a newer listener.

At most one request is under way, so the commands for a key are executed in order, unless one fails.
There are no sockets, threads or clocks here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, islice
from typing import Callable

from offset_common.fleet.entries import Answer, Claim, Entries, read_claim
from offset_common.fleet.events import Claimed, FleetEvent, Lost, Replaced
from offset_common.fleet.requests import Requests

BATCH = 256  # listeners in one command
REFRESH_INTERVAL = 40.0  # seconds, a third of LISTENER_TTL
RETRY_INTERVAL = 1.0  # seconds after the directory refused to store an entry


class _Listener:
    """A listener of this host.

    Args:
        key: its public key.
        earlier: epochs that the directory may still have for older listeners of the key.
    """

    __slots__ = ("earlier", "epoch", "key", "reported")

    def __init__(self, key: bytes, earlier: Sequence[int]) -> None:
        self.key = key
        self.earlier = earlier
        self.epoch = 0  # if it has none yet
        self.reported = False  # its claim

    def report_claim(self, report: Callable[[FleetEvent], None]) -> None:
        """Report the claim once, even if the directory refused it."""
        if not self.reported:
            self.reported = True
            report(Claimed(self.key))


class Claims:
    """All listeners of this host.

    Args:
        entries: makes the commands.
        host: the id of this host.
        requests: sends them.
        report: called with each event.
        refused: called with the reason when the directory refuses to store an entry.
    """

    def __init__(
        self,
        entries: Entries,
        host: str,
        requests: Requests,
        report: Callable[[FleetEvent], None],
        refused: Callable[[str], None],
    ) -> None:
        self._entries = entries
        self._host = host
        self._requests = requests
        self._report = report
        self._refused = refused
        self._listeners: dict[bytes, _Listener] = {}
        self._without_epoch: dict[bytes, None] = {}
        self._unclaimed: dict[bytes, None] = {}
        self._refresh: dict[bytes, float] = {}  # when to extend their entries, the earliest first
        self._drops: dict[tuple[bytes, int], None] = {}
        self._highest = 0  # epoch
        self._writing = False
        self._retry_at = -math.inf

    def __len__(self) -> int:
        """Return the number of listeners."""
        return len(self._listeners)

    @property
    def unclaimed(self) -> int:
        """The number of listeners that the directory may not have."""
        return len(self._without_epoch) + len(self._unclaimed)

    def listen(self, key: bytes) -> None:
        """Claim `key` for a new listener, which replaces an older one everywhere."""
        self._listeners[key] = _Listener(key, self._forget(key))
        self._without_epoch[key] = None

    def stop(self, key: bytes) -> None:
        """Drop the listener of `key`, which has ended; it may already be lost."""
        for epoch in self._forget(key):
            self._drops[key, epoch] = None

    def lose(self, key: bytes, claim: Claim) -> bool:
        """Forget the listener of `key` if `claim`, of another host, is newer; return whether it is.

        A listener without an epoch may be newer still; its own claim will decide.
        """
        listener = self._listeners.get(key)
        if listener is None or not listener.epoch or claim.epoch < listener.epoch:
            return False
        self._forget(key)
        self._highest = max(self._highest, claim.epoch)
        self._report(Lost(key))
        return True

    def claim_all(self) -> None:
        """Claim all listeners again: the directory may have lost some."""
        self._refresh.clear()
        self._unclaimed = {key: None for key, listener in self._listeners.items() if listener.epoch}

    def stop_waiting(self) -> None:
        """Note that the batch under way gets no answer."""
        self._writing = False

    def next_time(self) -> float:
        """Return when `write` has something to do."""
        if self._writing:
            return math.inf
        if self._without_epoch or self._unclaimed or self._drops:
            return self._retry_at
        return max(self._retry_at, next(iter(self._refresh.values()), math.inf))

    def write(self, now: float) -> None:
        """Send the next batch, if there is one and no other is under way."""
        if now < self.next_time():
            return
        due = (key for key, when in islice(self._refresh.items(), BATCH) if when <= now)
        to_claim = [self._listeners[key] for key in islice(chain(self._unclaimed, due), BATCH)]
        without_epoch = [self._listeners[key] for key in self._without_epoch]
        drops = list(islice(self._drops, BATCH))
        commands = [self._entries.reserve(self._highest)] if without_epoch else []
        if to_claim:
            epochs = [(listener.key, listener.epoch) for listener in to_claim]
            commands.append(self._entries.claim(self._host, epochs))
        if drops:
            commands.append(self._entries.drop(self._host, drops))

        def answered(answers: Sequence[Answer], now: float) -> None:
            self._writing = False
            left = iter(answers)
            if without_epoch:
                self._set_epochs(without_epoch, next(left), now)
            if to_claim:
                self._settle_all(to_claim, next(left), now)
            if drops:
                self._drop(drops, next(left), now)

        self._writing = True
        self._requests.add(commands, answered)

    def _forget(self, key: bytes) -> Sequence[int]:
        """Forget a listener; return the epochs that the directory may have for its key."""
        listener = self._listeners.pop(key, None)
        if listener is None:
            return ()
        for table in (self._without_epoch, self._unclaimed, self._refresh):
            table.pop(key, None)
        return (*listener.earlier, listener.epoch) if listener.epoch else listener.earlier

    def _set_epochs(self, listeners: Sequence[_Listener], answer: Answer, now: float) -> None:
        if not isinstance(answer, bytes):
            self._refuse(listeners, answer, now)
            return
        self._highest = max(self._highest, int(answer))
        for listener in listeners:
            if self._listeners.get(listener.key) is listener:
                listener.epoch = int(answer)
                self._without_epoch.pop(listener.key, None)
                self._unclaimed[listener.key] = None

    def _settle_all(self, listeners: Sequence[_Listener], answer: Answer, now: float) -> None:
        if not isinstance(answer, list) or len(answer) != len(listeners):
            self._refuse(listeners, answer, now)
            return
        for listener, before in zip(listeners, answer):
            if self._listeners.get(listener.key) is listener:
                self._settle(listener, before, now)

    def _settle(self, listener: _Listener, before: Answer, now: float) -> None:
        """Note the result of a claim.

        Args:
            listener: the listener of this host.
            before: the entry before the claim.
            now: seconds.
        """
        key, ours = listener.key, Claim(listener.epoch, self._host)
        if not isinstance(before, bytes):
            self._refresh.pop(key, None)
            self._unclaimed[key] = None
            self._refuse([listener], before, now)
            return
        other = read_claim(before)
        if other is not None and other.host != self._host and self.lose(key, other):
            return
        listener.earlier = ()  # the directory has this listener, and no older one
        listener.report_claim(self._report)
        self._unclaimed.pop(key, None)
        self._refresh.pop(key, None)
        self._refresh[key] = now + REFRESH_INTERVAL
        if other is not None and other.host != self._host:
            self._report(Replaced(key, other.host, ours))

    def _drop(self, drops: Sequence[tuple[bytes, int]], answer: Answer, now: float) -> None:
        if isinstance(answer, Exception):
            self._refuse((), answer, now)
            return
        for each in drops:
            self._drops.pop(each, None)

    def _refuse(self, listeners: Sequence[_Listener], answer: Answer, now: float) -> None:
        for listener in listeners:
            if self._listeners.get(listener.key) is listener:
                listener.report_claim(self._report)
        self._retry_at = now + RETRY_INTERVAL
        self._refused(str(answer) or "no answer")
