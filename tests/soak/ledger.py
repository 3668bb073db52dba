"""What happened, and whether it may: who talks to whom, and which end of a connection has a reason."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Optional

from offset_common.constants import WAITING_CONNECT_TIMEOUT
from offset_common.wire.messages import InitRole
from tests.soak.payloads import WrongPayload

if TYPE_CHECKING:
    from tests.soak.end import End
    from tests.soak.node import Node

LATENCY = 5.0  # seconds after which what was sent to the relay has certainly taken effect


class Pair:
    """What happened lately between a caller and the one it calls."""

    def __init__(self) -> None:
        self.connects: set[End] = set()  # that are not over
        self.claims: list[float] = []  # when the called one accepted or rejected
        self.rejected_at = -math.inf
        self.accept_ended_at = -math.inf


class Ledger:
    """The one place that knows both sides of everything."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []
        self._streams: dict[int, End] = {}
        self._pairs: dict[tuple[bytes, bytes], Pair] = {}
        self._last_stream = 0

    def fault(self, text: str) -> None:
        """Take down that something is wrong."""
        self.faults.append(text)

    def new_stream(self, end: End) -> int:
        """Return the number of what `end` will send."""
        self.count["connections"] += 1
        self._last_stream += 1
        self._streams[self._last_stream] = end
        return self._last_stream

    def pair(self, caller: Node, called: Node) -> Pair:
        """Return what happened between two."""
        return self._pairs.setdefault((caller.identity.public_key, called.identity.public_key), Pair())

    def pair_of(self, end: End) -> Pair:
        """Return what happened between the two that `end` is for."""
        assert end.other is not None
        return (
            self.pair(end.node, end.other) if end.role is InitRole.CONNECT else self.pair(end.other, end.node)
        )

    def claimed(self, caller: Node, called: Node, rejected: bool) -> None:
        """Take down that `called` accepts or rejects the connect of `caller`."""
        pair = self.pair(caller, called)
        pair.claims = [when for when in pair.claims if self.now - when < 2 * WAITING_CONNECT_TIMEOUT]
        pair.claims.append(self.now)
        if rejected:
            pair.rejected_at = self.now
            self.count["rejects"] += 1

    def joined(self, end: End, stream: int) -> None:
        """Take down that `end` got the first message of a tunnel.

        Raises:
            WrongPayload: it is from somebody who does not talk to `end`.
        """
        peer = self._streams.get(stream)
        if (
            peer is None
            or {end.role, peer.role} != {InitRole.CONNECT, InitRole.ACCEPT}
            or peer.other is not end.node
            or end.other is not peer.node
            or peer.peer is not None
        ):
            raise WrongPayload(f"stream {stream} came to the wrong one: it is of {peer}")
        end.peer, peer.peer = peer, end
        self.count["tunnels"] += 1

    def ended(self, end: End) -> None:
        """Forget `end`, which is over."""
        if end.peer is not None and end.peer.phase is end.phase:
            # Both are over: nothing of either can come any more.
            del self._streams[end.stream], self._streams[end.peer.stream]
        if end.role is InitRole.CONNECT:
            self.pair_of(end).connects.discard(end)
        elif end.role is InitRole.ACCEPT:
            self.pair_of(end).accept_ended_at = self.now

    def judge(self, end: End) -> None:
        """Find whether the relay may have closed `end`, and whether all has arrived that must have."""
        if end.quit:
            return
        if end.role is InitRole.LISTEN:
            wrong = None if end.node.listener is not end else "a listener was closed"
        elif end.peer is not None:
            wrong = self._judge_tunnel(end, end.peer)
        elif end.role is InitRole.CONNECT:
            wrong = self._judge_connect(end)
        else:
            wrong = self._judge_accept(end)
        if wrong is not None:
            self.fault(f"{wrong}: {end}, other end {end.peer}")

    @staticmethod
    def _judge_tunnel(end: End, peer: End) -> Optional[str]:
        if not peer.quit:
            return "a tunnel was closed although the other end is there"
        if peer.in_order and end.received != peer.sent:
            return "a tunnel was closed before everything was delivered"
        return None

    def _judge_connect(self, end: End) -> Optional[str]:
        pair = self.pair_of(end)
        assert end.other is not None
        excused = (
            self.now - end.opened >= WAITING_CONNECT_TIMEOUT - 2.0
            or end.other.listening_since > end.begun - LATENCY
            or max(pair.rejected_at, pair.accept_ended_at) >= end.begun
        )
        return None if excused else "a connect was closed without a reason"

    def _judge_accept(self, end: End) -> Optional[str]:
        pair = self.pair_of(end)
        for connect in pair.connects:
            claims = sum(1 for when in pair.claims if when >= connect.begun)
            # A connect that is about to be given up by the relay may have been so already.
            fresh = (
                end.begun - connect.opened > LATENCY
                and self.now - connect.opened < WAITING_CONNECT_TIMEOUT - 2.0
            )
            if connect.waiting and not connect.quit and fresh and claims == 1:
                return f"an accept was closed although {connect} waits"
        return None
