"""A node of the soak: what it does is decided by its own random numbers, made from the seed."""

from __future__ import annotations

import hashlib
import math
import random
from typing import TYPE_CHECKING, Optional

from offset_common.identity import Identity
from offset_common.wire.messages import InitRole, RejectConnection
from tests.soak.end import End, Phase
from tests.soak.payloads import LARGEST

if TYPE_CHECKING:
    from tests.soak.town import Town

STEP = 0.35  # seconds between two things that one node does, on average
MOST_CALLS = 3  # connects of one node
MOST_QUEUED = 256 * 1024  # bytes that wait to be sent, over which an end does not say more
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
    """Somebody with one identity, one listener and several tunnels.

    Args:
        town: where it lives.
        number: of the node.
    """

    def __init__(self, town: Town, number: int) -> None:
        self.town = town
        self.number = number
        self.random = random.Random(f"{town.seed}/{number}")
        self.identity = Identity.from_seed(hashlib.sha256(f"{town.seed}/{number}".encode()).digest())
        self.ends: list[End] = []
        self.listener: Optional[End] = None
        self.listening_since = math.inf
        self.frozen = False
        self._dialing: Optional[End] = None  # the next listener
        self._away_until = 0.0
        town.after(self.random.uniform(0.0, 5.0), self._step)

    # What comes from the relay.

    def opened(self, end: End) -> None:
        """Go on with a connection whose handshake is done."""
        if end.role is InitRole.LISTEN:
            self.listener, self._dialing = end, None
            self.listening_since = self.town.now
        elif end.role is InitRole.ACCEPT:
            end.talk(self._size())  # so that the other end learns that it is accepted
        for _ in range(end.early):
            end.talk(self._size())

    def called(self, listener: End, key: bytes) -> None:
        """Accept, reject or ignore a connect; soon, or a little later."""
        caller = self.town.by_key.get(key)
        if caller is None:
            self.town.ledger.fault(f"{listener} is told of a caller who does not exist")
            return
        answer = self.random.choices((self._accept, self._reject, None), (84, 12, 4))[0]
        if answer is not None:
            delay = self.random.choice((0.0, 0.0, self.random.uniform(0.0, 3.0)))
            self.town.after(delay, lambda: answer(listener, caller))

    def ended(self, end: End) -> None:
        """Forget a connection that is over."""
        self.ends.remove(end)
        if end is self.listener:
            self.listener, self.listening_since = None, math.inf
        if end is self._dialing:
            self._dialing = None

    # What it does.

    def _step(self) -> None:
        if self.town.closing:
            return
        self.town.after(self.random.expovariate(1 / STEP), self._step)
        if self.frozen or self.town.now < self._away_until:
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
            if end.queued <= MOST_QUEUED and end.phase is Phase.OPEN:
                end.talk(self._size())

    def _call(self) -> None:
        other = self.random.choice(self.town.nodes)
        calls = [end for end in self.ends if end.role is InitRole.CONNECT]
        if other is self or len(calls) >= MOST_CALLS:
            return
        pair = self.town.ledger.pair(self, other)
        if any(end.waiting for end in pair.connects):
            return
        end = self._dial(InitRole.CONNECT, other)
        end.early = self.random.choice((0, 0, 1, 3, 12))
        pair.connects.add(end)

    def _hang_up(self) -> None:
        end = self._some(self._talking())
        if end is not None:
            self.town.ledger.count["hang-ups"] += 1
            end.finish()

    def _rekey(self) -> None:
        ends = [end for end in self.ends if end.phase is Phase.OPEN and not end.rekeying]
        end = self._some([each for each in ends if self.town.now - each.rekeyed_at > REKEY_PAUSE])
        if end is not None:
            end.rekey()

    def _stall(self) -> None:
        end = self._some([each for each in self._talking() if not each.stalled])
        if end is not None:
            self.town.ledger.count["stalls"] += 1
            end.stall(True)
            seconds = self.random.choices((self.random.uniform(1.0, 12.0), 45.0), (9, 1))[0]
            self.town.after(seconds, lambda: end.stall(False))

    def _drop(self) -> None:
        end = self._some([each for each in self.ends if each.role is not InitRole.LISTEN])
        if end is not None:
            self.town.ledger.count["drops"] += 1
            end.reset()

    def _vanish(self) -> None:
        self.town.ledger.count["vanishings"] += 1
        for end in list(self.ends):
            end.reset()
        self._away()

    def _leave(self) -> None:
        self.town.ledger.count["leavings"] += 1
        self.listening_since = math.inf
        for end in list(self.ends):
            end.finish()
        self._away()

    def _listen_anew(self) -> None:
        if self._dialing is None:
            self.town.ledger.count["listens anew"] += 1
            self._dialing = self._dial(InitRole.LISTEN)

    def _pause(self) -> None:
        # Shorter than the 16 s between a keepalive and the end for silence: everything survives it.
        if all(end.phase is Phase.OPEN for end in self.ends):
            self.town.ledger.count["pauses"] += 1
            self._freeze_for(self.random.uniform(3.0, 12.0))

    def _freeze(self) -> None:
        # Longer than any peer may be silent: as if the machine were gone without a word.
        if all(end.phase is Phase.OPEN for end in self.ends):
            self.town.ledger.count["freezings"] += 1
            self.town.ledger.count["connections frozen"] += len(self.ends)
            self.listening_since = math.inf
            for end in self.ends:
                end.quit = True
            self._freeze_for(self.random.uniform(36.0, 45.0))

    # How.

    def thaw(self) -> None:
        """Go on after a pause; what was given up is left behind."""
        if not self.frozen:
            return
        self.frozen = False
        for end in list(self.ends):
            if end.quit and not end.in_order:
                end.reset()
            else:
                end.stall(end.stalled)

    def _freeze_for(self, seconds: float) -> None:
        self.frozen = True
        for end in self.ends:
            end.watch()
        self.town.after(seconds, self.thaw)

    def _away(self) -> None:
        self._away_until = self.town.now + self.random.uniform(0.0, 8.0)

    def _accept(self, listener: End, caller: Node) -> None:
        if self._may_answer(listener):
            self.town.ledger.claimed(caller, self, rejected=False)
            self._dial(InitRole.ACCEPT, caller)

    def _reject(self, listener: End, caller: Node) -> None:
        if self._may_answer(listener) and listener is self.listener:
            self.town.ledger.claimed(caller, self, rejected=True)
            listener.send(RejectConnection(caller.identity.public_key).encode())

    def _may_answer(self, listener: End) -> bool:
        return listener.phase is Phase.OPEN and not self.frozen and not self.town.closing

    def _dial(self, role: InitRole, other: Optional[Node] = None) -> End:
        end = End(self, role, other)
        self.ends.append(end)
        return end

    def _talking(self) -> list[End]:
        return [end for end in self.ends if end.role is not InitRole.LISTEN and end.phase is Phase.OPEN]

    def _some(self, ends: list[End]) -> Optional[End]:
        return self.random.choice(ends) if ends else None

    def _size(self) -> int:
        # Most messages are small, a few nearly as large as they may be.
        power = (
            self.random.uniform(14.0, 20.0) if self.random.random() < 0.02 else self.random.uniform(0.0, 14.0)
        )
        return min(int(2**power), LARGEST - 16)
