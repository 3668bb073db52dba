"""All nodes together, in one thread: the clock, the selector, and how it ends."""

from __future__ import annotations

import heapq
import selectors
import time
from collections.abc import Iterator
from typing import Callable

from offset_common.wire.messages import InitRole
from tests.end_to_end.peer import Place
from tests.soak.end import End, Phase
from tests.soak.ledger import Ledger
from tests.soak.node import Node
from tests.soak.payloads import Payloads

TICK = 1.0  # seconds between two looks at every connection
SETTLING = 60.0  # seconds in which everything that was sent must have arrived


class Town:
    """The nodes of one run.

    Args:
        place: the relay.
        seed: what everything is made from.
        size: how many nodes.
    """

    def __init__(self, place: Place, seed: int, size: int) -> None:
        self.relay_address = place.address
        self.relay_key = place.public_key
        self.seed = seed
        self.closing = False
        self.ledger = Ledger()
        self.payloads = Payloads(seed)
        self._selector = selectors.DefaultSelector()
        self._schedule: list[tuple[float, int, Callable[[], object]]] = []
        self._scheduled = 0
        self.now = self.ledger.now = time.monotonic()
        self.nodes = [Node(self, number) for number in range(size)]
        self.by_key = {node.identity.public_key: node for node in self.nodes}
        self.after(TICK, self._tick)

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Call `call` in so many seconds."""
        self._scheduled += 1
        heapq.heappush(self._schedule, (self.now + seconds, self._scheduled, call))

    def watch(self, end: End, before: int, mask: int) -> None:
        """Call `end` for what is in `mask`, where it was `before`."""
        if not before:
            self._selector.register(end.sock, mask, end)
        elif not mask:
            self._selector.unregister(end.sock)
        else:
            self._selector.modify(end.sock, mask, end)

    def ends(self) -> Iterator[End]:
        """Go through every connection that is not over."""
        for node in self.nodes:
            yield from list(node.ends)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Live for so long, or until `until` holds or something is wrong; say whether it holds."""
        deadline = time.monotonic() + seconds
        while self.now < deadline and not self.ledger.faults:
            self._run_once(deadline)
            if until():
                return True
        return until()

    def close(self) -> None:
        """Let everything arrive that was sent, then let everybody leave."""
        self.closing = True
        for node in self.nodes:
            node.thaw()
        for end in self.ends():
            if end.stalled:
                end.stall(False)
        if not self.run(SETTLING, self._all_arrived):
            missing = [end for end in self.ends() if _is_behind(end)]
            self._must_be_empty(missing, "not everything arrived")
        for end in self.ends():
            if end.role is InitRole.CONNECT or (end.peer is None and end.role is InitRole.ACCEPT):
                end.finish()
        self.run(SETTLING, lambda: all(end.role is InitRole.LISTEN for end in self.ends()))
        tunnels = [end for end in self.ends() if end.role is not InitRole.LISTEN]
        self._must_be_empty(tunnels, "the relay did not close what was over")
        for node in self.nodes:
            for end in list(node.ends):
                end.finish() if node.number % 2 else end.reset()
        self.run(SETTLING, lambda: not any(True for _ in self.ends()))
        self._must_be_empty(list(self.ends()), "the relay did not close listeners that left")

    def _must_be_empty(self, ends: list[End], what: str) -> None:
        if ends and not self.ledger.faults:
            self.ledger.fault(
                f"{what}: {len(ends)} connections, the first is {ends[0]}, other end {ends[0].peer}"
            )

    def _all_arrived(self) -> bool:
        return not any(_is_behind(end) for end in self.ends())

    def _run_once(self, deadline: float) -> None:
        due = self._schedule[0][0] if self._schedule else deadline
        wait = max(0.0, min(due, deadline, self.now + 0.1) - time.monotonic())
        ready = self._selector.select(wait)
        self.now = self.ledger.now = time.monotonic()
        for key, mask in ready:
            end: End = key.data
            if end.phase is not Phase.OVER and not end.node.frozen:
                end.on_ready(mask)
        while self._schedule and self._schedule[0][0] <= self.now:
            heapq.heappop(self._schedule)[2]()

    def _tick(self) -> None:
        self.after(TICK, self._tick)
        for end in self.ends():
            end.tick()


def _is_behind(end: End) -> bool:
    peer = end.peer
    if peer is None or end.phase is not Phase.OPEN or peer.phase is not Phase.OPEN:
        return False
    return end.received != peer.sent
