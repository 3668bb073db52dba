"""All simulated nodes in one thread: the clock, the selector, and the orderly end."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Iterator

from offset_common.wire.messages import InitRole
from tests.soak.connection import Connection
from tests.soak.ledger import Ledger
from tests.soak.node import Node
from tests.soak.payloads import Payloads
from tests.support.node import Endpoint
from tests.support.swarm import Swarm

TICK = 1.0  # seconds between two checks of every connection
SETTLING = 60.0  # seconds in which everything that was sent must arrive


class Simulation:
    """The nodes of one run.

    Args:
        relay: the relay's address and key.
        seed: decides everything but the timing.
        size: how many nodes.
    """

    def __init__(self, relay: Endpoint, seed: int, size: int) -> None:
        self.seed = seed
        self.closing = False
        self.swarm = Swarm(relay)
        self.ledger = Ledger()
        self.payloads = Payloads(seed)
        self._schedule: list[tuple[float, int, Callable[[], object]]] = []
        self._scheduled = 0
        self.now = self.ledger.now = time.monotonic()
        self.nodes = [Node(self, number) for number in range(size)]
        self.by_key = {node.keys.public_key: node for node in self.nodes}
        self.after(TICK, self._tick)

    def after(self, seconds: float, call: Callable[[], object]) -> None:
        """Call `call` after that many seconds."""
        self._scheduled += 1
        heapq.heappush(self._schedule, (self.now + seconds, self._scheduled, call))

    def connections(self) -> Iterator[Connection]:
        """Yield every connection that has not ended."""
        for node in self.nodes:
            yield from list(node.connections)

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Run until `until` holds, the time is over or something is wrong; return whether it holds."""
        deadline = time.monotonic() + seconds
        while self.now < deadline and not self.ledger.faults:
            self._run_once(deadline)
            if until():
                return True
        return until()

    def _run_once(self, deadline: float) -> None:
        due = self._schedule[0][0] if self._schedule else deadline
        self.swarm.run_once(max(0.0, min(due, deadline, self.now + 0.1) - time.monotonic()))
        self.now = self.ledger.now = time.monotonic()
        while self._schedule and self._schedule[0][0] <= self.now:
            heapq.heappop(self._schedule)[2]()

    def _tick(self) -> None:
        self.after(TICK, self._tick)
        for connection in self.connections():
            connection.tick()

    def release(self) -> None:
        """Close every connection that is left."""
        for connection in self.connections():
            connection.close()
        self.swarm.close()

    def close(self) -> None:
        """Wait until everything has arrived, then let every node leave."""
        self.closing = True
        for node in self.nodes:
            node.thaw()
        for connection in self.connections():
            connection.stall(False)
        self._settle(_is_behind, "not everything arrived")
        for connection in self.connections():
            if connection.role is InitRole.CONNECT or (
                connection.partner is None and connection.role is InitRole.ACCEPT
            ):
                connection.finish()
        self._settle(lambda each: each.role is not InitRole.LISTEN, "the relay did not close ended tunnels")
        for number, connection in enumerate(list(self.connections())):
            connection.finish() if number % 2 else connection.reset()
        self._settle(lambda _: True, "the relay did not close listeners that left")

    def _settle(self, is_left: Callable[[Connection], bool], fault: str) -> None:
        self.run(SETTLING, lambda: not any(map(is_left, self.connections())))
        left = [each for each in self.connections() if is_left(each)]
        if left and not self.ledger.faults:
            self.ledger.fault(f"{fault}: {len(left)} connections, {left[0]}, other end {left[0].partner}")


def _is_behind(connection: Connection) -> bool:
    partner = connection.partner
    if partner is None or not connection.is_open or not partner.is_open:
        return False
    return connection.received != partner.sent
