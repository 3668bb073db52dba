"""A fleet in virtual time: hosts, a directory, and a network that loses, delays and repeats.

Each host runs the directory's state machine as it is. Everything else is a model: the server, the thread that
sends requests in order, and the messages "taken" between hosts. One seed makes one schedule.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Iterable
from functools import partial
from typing import Callable, Optional

from offset_common.address import Address
from offset_common.fleet.claims import REFRESH_INTERVAL
from offset_common.fleet.directory import FIND_TIMEOUT, Directory
from offset_common.fleet.entries import EPOCH_TTL, HOST_TTL, LISTENER_TTL, Claim, Entries, Host
from offset_common.fleet.events import Found, Lost, Replaced
from offset_common.fleet.requests import Request
from offset_common.identity import encode_key
from tests.fleet.server_model import ServerModel

RELAY_KEY = bytes(range(32))
KEYS = [bytes([number]) * 32 for number in (1, 2, 3)]
TIMEOUT = 2.0  # seconds that a host waits for an answer
QUIET = LISTENER_TTL / 1000 + REFRESH_INTERVAL + 5 * HOST_TTL / 1000  # seconds


class SimulatedHost:
    """One host.

    Args:
        fleet: the simulation.
        name: of the host.
    """

    def __init__(self, fleet: SimulatedFleet, name: str) -> None:
        self.fleet = fleet
        self.id = encode_key(fleet.random.randbytes(32))
        self.directory = Directory(RELAY_KEY, Host(self.id, name, Address("127.0.0.1", 1)))
        self.listeners: dict[bytes, int] = {}  # with the number of each listener
        self.found: dict[int, Callable[[Found], None]] = {}
        self.alive = True
        self.cut_off = False  # from the directory
        self._queue: list[Request] = []
        self._sending = False
        self._awake_at = -1.0

    def listen(self, key: bytes) -> None:
        """A node begins to listen here."""
        self.listeners[key] = self.fleet.next_listener()
        self.directory.claims.listen(key)
        self.run()

    def stop(self, key: bytes) -> None:
        """A node ends its listener here."""
        if self.listeners.pop(key, None) is not None:
            self.directory.claims.stop(key)
            self.run()

    def find(self, key: bytes, call: Callable[[Found], None]) -> None:
        """A node connects here."""
        self.found[self.directory.find_home(key, self.fleet.now)] = call
        self.run()

    def taken(self, key: bytes, claim: Claim) -> None:
        """Another host reports that it has a newer listener."""
        if self.alive:
            self.directory.claims.lose(key, claim)
            self.run()

    def run(self) -> None:
        """Run the state machine until it has nothing to do."""
        if not self.alive:
            return
        directory, now = self.directory, self.fleet.now
        directory.handle_time(now)
        self._queue += directory.take_requests()
        for event in directory.take_events():
            if isinstance(event, Found):
                self.found.pop(event.number)(event)
            elif isinstance(event, Lost):
                del self.listeners[event.key]
            elif isinstance(event, Replaced):
                self.fleet.tell(event)
        self._send()
        when = directory.next_time()
        if when < float("inf") and when != self._awake_at:
            self._awake_at = when
            self.fleet.at(max(when, now + 0.001), self.run)

    def _send(self) -> None:
        """Send all that is queued, as the thread does: one pipeline after the other."""
        if self._sending or not self._queue:
            return
        self._sending = True
        requests, self._queue = self._queue, []
        self.fleet.carry(self, requests, lambda answers: self._receive(requests, answers))

    def _receive(self, requests: list[Request], answers: Optional[list[list[object]]]) -> None:
        if not self.alive:
            return
        self._sending = False
        now = self.fleet.now
        for number, request in enumerate(requests):
            if answers is None:
                self.directory.fail(request.number, "no answer", now)
            else:
                self.directory.answer(request.number, answers[number], now)
                if self.fleet.random.random() < 0.05:  # a repeated answer
                    self.directory.answer(request.number, answers[number], now)
            self.run()


class SimulatedFleet:
    """Hosts and a directory.

    Args:
        seed: the seed of everything that is random.
        hosts: how many.
    """

    def __init__(self, seed: int, hosts: int = 3) -> None:
        self.random = random.Random(seed)
        self.now = 1000.0
        self.server_skew = 0.0  # seconds of its clock
        self.clock_went_back = False  # entries last longer than planned
        self.server = ServerModel(self.now)
        self.server_up = True
        self.faults = 0.0  # the probability of each kind of fault
        self._replica = self.server.copy()
        self._listeners = 0
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._sequence = 0
        self.hosts = [SimulatedHost(self, f"host-{number}") for number in range(hosts)]
        for host in self.hosts:
            host.run()
        self.run_for(1.0)

    # Time.

    def at(self, when: float, action: Callable[[], object]) -> None:
        """Schedule a call."""
        self._sequence += 1
        heapq.heappush(self._events, (when, self._sequence, action))

    def run_for(self, seconds: float) -> None:
        """Run for that many seconds of virtual time."""
        end = self.now + seconds
        while self._events and self._events[0][0] <= end:
            when, _, action = heapq.heappop(self._events)
            self._pass_time(when)
            action()
        self._pass_time(end)

    def _pass_time(self, when: float) -> None:
        self.server.now += when - self.now
        self.now = when

    # The network.

    def carry(
        self,
        host: SimulatedHost,
        requests: list[Request],
        answer: Callable[[Optional[list[list[object]]]], None],
    ) -> None:
        """Carry requests to the server and answers back, with faults."""
        delay, fault = self._delay(), self.random.random()

        def execute() -> list[list[object]]:
            return [self.server.execute(request.commands) for request in requests]

        def arrive() -> None:
            if not self.server_up or host.cut_off:
                self.at(self.now + self._delay(), lambda: answer(None))
                return
            answers = execute()
            self.at(self.now + self._delay(), lambda: answer(answers))
            if fault > 1 - self.faults:  # a repeated request
                self.at(self.now + self.random.uniform(0, 20), execute)

        if fault < self.faults:  # lost on the way to the server
            self.at(self.now + TIMEOUT, lambda: answer(None))
        elif fault < 2 * self.faults:  # lost on the way back
            self.at(self.now + delay, execute)
            self.at(self.now + max(TIMEOUT, delay), lambda: answer(None))
        elif fault < 3 * self.faults:  # executed after the host has given up
            self.at(self.now + TIMEOUT + self.random.uniform(0, 20), execute)
            self.at(self.now + TIMEOUT, lambda: answer(None))
        else:
            self.at(self.now + delay, arrive)

    def _delay(self) -> float:
        return self.random.choice((0.0, 0.001, 0.01, 0.5 if self.faults else 0.002))

    def tell(self, event: Replaced) -> None:
        """Carry "taken" from one host to another."""
        if self.random.random() < self.faults:
            return
        for host in self.hosts:
            if host.id == event.host:
                self.at(self.now + self._delay(), partial(host.taken, event.key, event.claim))

    # Events.

    def next_listener(self) -> int:
        """Return the number of the newest listener."""
        self._listeners += 1
        return self._listeners

    def kill(self, number: int) -> None:
        """Kill a host, and start another one in its place."""
        self.hosts[number].alive = False
        self.hosts[number] = SimulatedHost(self, f"host-{number}")
        self.hosts[number].run()

    def fail_over(self) -> None:
        """Replace the server with a replica that is a little behind, and whose clock may differ."""
        self.server = self._replica.copy()
        skew = self.random.choice((0, 0, -3600, 3600))
        self.clock_went_back |= skew < self.server_skew
        self.server_skew = skew
        self.server.now = self.now + skew

    def replicate(self) -> None:
        """Bring the replica up to date."""
        self._replica = self.server.copy()

    def do_something(self) -> None:
        """Do one random thing."""
        choice = self.random.random()
        number = self.random.randrange(len(self.hosts))
        host, key = self.hosts[number], self.random.choice(KEYS)
        if choice < 0.45:
            host.listen(key)
        elif choice < 0.6:
            host.stop(key)
        elif choice < 0.75:
            self.find_from(host, key)
        elif choice < 0.8:
            self.kill(number)
        elif choice < 0.85:
            host.cut_off = not host.cut_off
        elif choice < 0.89:
            self.server_up = not self.server_up
        elif choice < 0.91:
            self.server.lose_everything()
        elif choice < 0.94:
            self.server.full = not self.server.full
        elif choice < 0.97:
            self.fail_over()
        else:
            self.replicate()

    def heal(self) -> None:
        """End all faults."""
        self.faults = 0.0
        self.server_up, self.server.full = True, False
        for host in self.hosts:
            host.cut_off = False

    # Called by the tests.

    def find_from(self, host: SimulatedHost, key: bytes) -> list[Optional[SimulatedHost]]:
        """Ask where a key listens; the answer is in the list after FIND_TIMEOUT at the latest."""
        answers: list[Optional[SimulatedHost]] = []

        def found(answer: Found) -> None:
            if answer.here:
                answers.append(host)
            elif answer.host is None:
                answers.append(None)
            else:
                wanted = answer.host.id
                answers.append(next((each for each in self.hosts if each.id == wanted), None))

        host.find(key, found)
        return answers

    def homes_seen_from(self, host: SimulatedHost) -> dict[bytes, Optional[SimulatedHost]]:
        """Return where each key listens, as the directory tells a host."""
        answers = {key: self.find_from(host, key) for key in KEYS}
        self.run_for(2 * FIND_TIMEOUT)
        return {key: answer[0] for key, answer in answers.items()}

    def homes(self) -> dict[bytes, list[SimulatedHost]]:
        """Return the hosts that have a listener of each key."""
        return {key: [host for host in self.hosts if key in host.listeners] for key in KEYS}

    def newest(self) -> dict[bytes, Optional[str]]:
        """Return the id of the host that had the newest claim of each key."""
        entries = Entries(RELAY_KEY)
        highest = {key: self.server.highest.get(str(entries.read_listener(key)[1])) for key in KEYS}
        return {key: None if claim is None else claim.host for key, claim in highest.items()}

    def stop_everything(self) -> None:
        """End all listeners and hosts, and wait until nothing should be left."""
        for host in self.hosts:
            for key in list(host.listeners):
                host.stop(key)
        self.run_for(5.0)
        for host in self.hosts:
            host.directory.leave()
            host.run()
        self.run_for(5.0)
        self.kill_all(self.hosts)
        self.run_for(EPOCH_TTL / 1000 + 1)

    def kill_all(self, hosts: Iterable[SimulatedHost]) -> None:
        """Kill hosts for good."""
        for host in hosts:
            host.alive = False
