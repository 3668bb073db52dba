"""A simulated node, whose actions are chosen by random numbers from the seed."""

from __future__ import annotations

import hashlib
import math
import random
from typing import TYPE_CHECKING, Optional

from offset_common.wire.messages import InitRole, RejectConnection
from tests.soak.connection import Connection
from tests.soak.payloads import LARGEST
from tests.support.channel import KeyPair
from tests.support.encoding import encode

if TYPE_CHECKING:
    from tests.soak.simulation import Simulation

STEP = 0.35  # seconds between two actions of a node, on average
MAX_CALLS = 3  # connects of one node
MAX_UNSENT = 256 * 1024  # unsent bytes above which a connection pauses
REKEY_PAUSE = 25.0  # seconds: a relay takes four rekeys a minute

WEIGHTS = {
    "talk": 60.0,
    "call": 14.0,
    "hang_up": 5.0,
    "rekey": 3.0,
    "stall": 2.0,
    "drop": 2.0,
    "vanish": 0.5,
    "leave": 0.5,
    "listen_anew": 0.5,
    "pause": 0.4,
    "freeze": 0.15,
}


class Node:
    """A node with one identity, one listener and several tunnels.

    Args:
        simulation: drives it.
        number: of the node.
    """

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.number = number
        self.random = random.Random(f"{simulation.seed}/{number}")
        self.keys = KeyPair(hashlib.sha256(f"{simulation.seed}/{number}".encode()).digest())
        self.connections: list[Connection] = []
        self.listener: Optional[Connection] = None
        self.listening_since = math.inf
        self.frozen = False
        self._dialing: Optional[Connection] = None  # the next listener
        self._away_until = 0.0
        simulation.after(self.random.uniform(0.0, 5.0), self._step)

    # Events.

    def handle_opened(self, end: Connection) -> None:
        """Use a connection whose handshake is done."""
        if end.role is InitRole.LISTEN:
            self.listener, self._dialing = end, None
            self.listening_since = self.simulation.now
        elif end.role is InitRole.ACCEPT:
            end.talk(self._size())  # shows the other end that it is accepted
        for _ in range(end.early):
            end.talk(self._size())

    def handle_call(self, listener: Connection, key: bytes) -> None:
        """Accept, reject or ignore a connect, at once or a little later."""
        caller = self.simulation.by_key.get(key)
        if caller is None:
            self.simulation.ledger.fault(f"{listener} got an announcement of a caller that does not exist")
            return
        answer = self.random.choices((self._accept, self._reject, None), (84, 12, 4))[0]
        if answer is not None:
            delay = self.random.choice((0.0, 0.0, self.random.uniform(0.0, 3.0)))
            self.simulation.after(delay, lambda: answer(listener, caller))

    def handle_ended(self, end: Connection) -> None:
        """Forget a connection that has ended."""
        self.connections.remove(end)
        if end is self.listener:
            self.listener, self.listening_since = None, math.inf
        if end is self._dialing:
            self._dialing = None

    # Actions.

    def _step(self) -> None:
        if self.simulation.closing:
            return
        self.simulation.after(self.random.expovariate(1 / STEP), self._step)
        if self.frozen or self.simulation.now < self._away_until:
            return
        if self.listener is None and self._dialing is None:
            self._dialing = self._dial(InitRole.LISTEN)
            return
        what = self.random.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        getattr(self, f"_{what}")()

    def _talk(self) -> None:
        end = self._some(self._talking())
        if end is None:
            return
        for _ in range(self.random.randint(1, 8)):
            if end.unsent_bytes <= MAX_UNSENT and end.is_open:
                end.talk(self._size())

    def _call(self) -> None:
        other = self.random.choice(self.simulation.nodes)
        calls = [end for end in self.connections if end.role is InitRole.CONNECT]
        if other is self or len(calls) >= MAX_CALLS:
            return
        pair = self.simulation.ledger.pair(self, other)
        if any(end.is_pending for end in pair.connects):
            return
        end = self._dial(InitRole.CONNECT, other)
        end.early = self.random.choice((0, 0, 1, 3, 12))
        pair.connects.add(end)

    def _hang_up(self) -> None:
        end = self._some(self._talking())
        if end is not None:
            self.simulation.ledger.count["hang-ups"] += 1
            end.finish()

    def _rekey(self) -> None:
        ends = [end for end in self.connections if end.is_open and not end.rekeying]
        end = self._some([each for each in ends if self.simulation.now - each.rekeyed_at > REKEY_PAUSE])
        if end is not None:
            end.rekey()

    def _stall(self) -> None:
        end = self._some([each for each in self._talking() if each.reads])
        if end is not None:
            self.simulation.ledger.count["stalls"] += 1
            end.stall(True)
            seconds = self.random.choices((self.random.uniform(1.0, 12.0), 45.0), (9, 1))[0]
            self.simulation.after(seconds, lambda: end.stall(False))

    def _drop(self) -> None:
        end = self._some([each for each in self.connections if each.role is not InitRole.LISTEN])
        if end is not None:
            self.simulation.ledger.count["drops"] += 1
            end.reset()

    def _vanish(self) -> None:
        self.simulation.ledger.count["vanishings"] += 1
        for end in list(self.connections):
            end.reset()
        self._away()

    def _leave(self) -> None:
        self.simulation.ledger.count["leavings"] += 1
        self.listening_since = math.inf
        for end in list(self.connections):
            end.finish()
        self._away()

    def _listen_anew(self) -> None:
        if self._dialing is None:
            self.simulation.ledger.count["listens anew"] += 1
            self._dialing = self._dial(InitRole.LISTEN)

    def _pause(self) -> None:
        # Shorter than the 16 s between a keepalive and the idle timeout: everything survives it.
        if all(end.is_open for end in self.connections):
            self.simulation.ledger.count["pauses"] += 1
            self._freeze_for(self.random.uniform(3.0, 9.0))

    def _freeze(self) -> None:
        # Longer than any peer may be silent: as if the machine had vanished.
        if all(end.is_open for end in self.connections):
            self.simulation.ledger.count["freezings"] += 1
            self.simulation.ledger.count["connections frozen"] += len(self.connections)
            self.listening_since = math.inf
            for end in self.connections:
                end.quit = True
            self._freeze_for(self.random.uniform(36.0, 45.0))

    def thaw(self) -> None:
        """Continue after a pause; reset the connections that it was too long for."""
        if not self.frozen:
            return
        self.frozen = False
        for end in list(self.connections):
            if end.quit and not end.finishing:
                end.reset()
            else:
                end.stall(not end.reads)

    def _freeze_for(self, seconds: float) -> None:
        self.frozen = True
        for end in self.connections:
            end.update_interest()
        self.simulation.after(seconds, self.thaw)

    def _away(self) -> None:
        self._away_until = self.simulation.now + self.random.uniform(0.0, 8.0)

    def _accept(self, listener: Connection, caller: Node) -> None:
        if self._may_answer(listener):
            self.simulation.ledger.claimed(caller, self, rejected=False)
            self._dial(InitRole.ACCEPT, caller)

    def _reject(self, listener: Connection, caller: Node) -> None:
        if self._may_answer(listener) and listener is self.listener:
            self.simulation.ledger.claimed(caller, self, rejected=True)
            listener.send(encode(RejectConnection(caller.keys.public_key)))

    def _may_answer(self, listener: Connection) -> bool:
        return listener.is_open and not self.frozen and not self.simulation.closing

    def _dial(self, role: InitRole, other: Optional[Node] = None) -> Connection:
        end = Connection(self, role, other)
        self.connections.append(end)
        return end

    def _talking(self) -> list[Connection]:
        return [end for end in self.connections if end.role is not InitRole.LISTEN and end.is_open]

    def _some(self, ends: list[Connection]) -> Optional[Connection]:
        return self.random.choice(ends) if ends else None

    def _size(self) -> int:
        # Most messages are small, a few nearly as large as they may be.
        power = (
            self.random.uniform(14.0, 20.0) if self.random.random() < 0.02 else self.random.uniform(0.0, 14.0)
        )
        return min(int(2**power), LARGEST - 16)
