"""The directory as one host sees it, as a state machine.

    listen, stop, find_home, find_host, handle_time(now) --> take_requests() --> to the server
    from the server --> answer(request, answers, now), fail(request, reason, now) --> take_events()

There are no sockets, threads or clocks here; times are arguments. A test runs thousands of schedules with
lost, late and repeated answers.

While the directory is unreachable, the only request is a heartbeat each second. When it answers again, all
listeners are claimed again, with the epochs that they have.

Source: docs/fleet.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Optional

from offset_common.fleet.claims import Claims
from offset_common.fleet.entries import Answer, Claim, Entries, Host, read_claim
from offset_common.fleet.events import Accepted, Away, FleetEvent, Found, Present, Refused
from offset_common.fleet.membership import Membership
from offset_common.fleet.requests import Request, Requests

RETRY_INTERVAL = 1.0  # seconds between attempts while the directory is unreachable
FIND_TIMEOUT = 2.0  # seconds that a question may take
MAX_QUESTIONS = 10_000  # under way at the same time, even if they are too late


class Directory:
    """The directory as one host knows it.

    Args:
        relay_key: the public key that all hosts of the fleet share, 32 bytes.
        own: this host.
    """

    def __init__(self, relay_key: bytes, own: Host) -> None:
        self._entries = Entries(relay_key)
        self._own = own
        self._requests = Requests()
        self._events: list[FleetEvent] = []
        self._membership = Membership(self._entries, own, self._requests, self._alive, self._stored)
        self.claims = Claims(self._entries, own.id, self._requests, self._events.append, self._stored)
        self._present: Optional[bool] = None  # until the first answer
        self._refused = False
        self._questions: dict[int, float] = {}  # when to give up, the earliest first
        self._next_question = 0

    @property
    def present(self) -> bool:
        """Whether the directory answers."""
        return self._present is True

    @property
    def refuses(self) -> bool:
        """Whether the directory refuses to store entries."""
        return self._refused

    @property
    def hosts(self) -> dict[str, Host]:
        """The hosts that were alive at the last heartbeat, by id, including this one."""
        return self._membership.hosts

    def take_requests(self) -> list[Request]:
        """Return the requests to send now."""
        return self._requests.take()

    def take_events(self) -> list[FleetEvent]:
        """Return the events since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    # From the host.

    def find_home(self, key: bytes, now: float) -> int:
        """Ask where `key` listens; return the number of the question, for its `Found`."""
        number = self._ask(now)
        if number in self._questions:
            self._requests.add(
                [self._entries.read_listener(key)],
                lambda answers, now: self._read_home(number, answers[0], now),
            )
        return number

    def find_host(self, host: str, now: float) -> int:
        """Ask whether a host is alive; return the number of the question, for its `Found`."""
        if host in self.hosts:  # even while the directory is unreachable
            self._next_question += 1
            self._events.append(Found(self._next_question - 1, self.hosts[host]))
            return self._next_question - 1
        number = self._ask(now)
        if number in self._questions:
            self._read_host(number, host)
        return number

    def leave(self) -> None:
        """Remove this host from the directory, so its listeners are not found: it is about to stop."""
        self._membership.leave()

    # Time.

    def next_time(self) -> float:
        """Return when `handle_time` has something to do, in seconds."""
        when = min(self._membership.next_time(), next(iter(self._questions.values()), float("inf")))
        return min(when, self.claims.next_time()) if self._present else when

    def handle_time(self, now: float) -> None:
        """Make the requests that are needed now."""
        expired = takewhile(lambda question: question[1] <= now, self._questions.items())
        for number, _ in list(expired):
            self._reply(Found(number))
        self._membership.beat(now)
        if self._present:
            self.claims.write(now)

    # From the server.

    def answer(self, number: int, answers: Sequence[Answer], now: float) -> None:
        """Handle the answers to a request; ignore those that are no longer awaited."""
        self._requests.answer(number, answers, now)

    def fail(self, number: int, reason: str, now: float) -> None:
        """Handle a request without an answer; it may have been executed, or may be executed later."""
        if not self._requests.forget(number):
            return
        self._requests.forget_all()
        self.claims.stop_waiting()
        for question in list(self._questions):
            self._reply(Found(question))
        self._membership.beat_at(now + RETRY_INTERVAL)
        if self._present is not False:
            self._present = False
            self._events.append(Away(reason))

    def _ask(self, now: float) -> int:
        number = self._next_question
        self._next_question += 1
        if self._present is not False and len(self._requests) < MAX_QUESTIONS:
            self._questions[number] = now + FIND_TIMEOUT
        else:
            self._events.append(Found(number))
        return number

    def _reply(self, found: Found) -> None:
        if self._questions.pop(found.number, None) is not None:
            self._events.append(found)

    def _read_home(self, number: int, value: Answer, now: float) -> None:
        claim: Optional[Claim] = read_claim(value)
        if claim is None or claim.host == self._own.id:
            self._reply(Found(number, here=claim is not None))
        elif claim.host in self.hosts:
            self._reply(Found(number, self.hosts[claim.host]))
        else:
            self._read_host(number, claim.host)

    def _read_host(self, number: int, host: str) -> None:
        def answered(answers: Sequence[Answer], now: float) -> None:
            values = answers[0]
            found = self._entries.host_in(host, values[0]) if isinstance(values, list) and values else None
            if found is not None:
                self._membership.add(found)
            self._reply(Found(number, found))

        self._requests.add([self._entries.read_hosts([host])], answered)

    def _alive(self, was_there: bool, now: float) -> None:
        if not self._present:
            self._present = True
            self._events.append(Present())
            self.claims.claim_all()
        elif not was_there:
            self.claims.claim_all()  # the directory has lost this host's entry, and perhaps others

    def _stored(self, reason: str) -> None:
        if not reason and self.claims.unclaimed:
            return  # the directory may still refuse them
        if reason and not self._refused:
            self._events.append(Refused(reason))
        elif self._refused and not reason:
            self._events.append(Accepted())
        self._refused = bool(reason)
