"""The record of both sides: which tunnels exist, and whether the relay may close a connection."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Optional

from offset_common.wire.messages import InitRole
from tests.soak.payloads import WrongPayload

if TYPE_CHECKING:
    from tests.soak.connection import Connection
    from tests.soak.node import Node

PENDING_CONNECT_TIMEOUT = 32.0  # seconds
LATENCY = 5.0  # seconds after which the relay has certainly handled everything sent to it


class Pair:
    """Recent events between a caller and the node that it calls."""

    def __init__(self) -> None:
        self.connects: set[Connection] = set()  # not ended yet
        self.claims: list[float] = []  # times at which the called node accepted or rejected
        self.rejected_at = -math.inf
        self.accept_ended_at = -math.inf


class Ledger:
    """Records both sides of every tunnel, and judges the relay by them."""

    def __init__(self) -> None:
        self.now = 0.0
        self.count: Counter[str] = Counter()
        self.faults: list[str] = []
        self._streams: dict[int, Connection] = {}
        self._pairs: dict[tuple[bytes, bytes], Pair] = {}
        self._last_stream = 0

    def fault(self, text: str) -> None:
        """Record that something is wrong."""
        self.faults.append(text)

    def new_stream(self, end: Connection) -> int:
        """Return a number for the stream that a connection will send."""
        self.count["connections"] += 1
        self._last_stream += 1
        self._streams[self._last_stream] = end
        return self._last_stream

    def pair(self, caller: Node, called: Node) -> Pair:
        """Return the record of two nodes."""
        return self._pairs.setdefault((caller.keys.public_key, called.keys.public_key), Pair())

    def pair_of(self, end: Connection) -> Pair:
        """Return the record of the two nodes of a connection."""
        assert end.other is not None
        return (
            self.pair(end.node, end.other) if end.role is InitRole.CONNECT else self.pair(end.other, end.node)
        )

    def claimed(self, caller: Node, called: Node, rejected: bool) -> None:
        """Record that a node accepts or rejects the connect of a caller."""
        pair = self.pair(caller, called)
        pair.claims = [when for when in pair.claims if self.now - when < 2 * PENDING_CONNECT_TIMEOUT]
        pair.claims.append(self.now)
        if rejected:
            pair.rejected_at = self.now
            self.count["rejects"] += 1

    def joined(self, end: Connection, stream: int) -> None:
        """Record that a connection got the first message of a tunnel.

        Raises:
            WrongPayload: the message is from another node.
        """
        peer = self._streams.get(stream)
        if (
            peer is None
            or {end.role, peer.role} != {InitRole.CONNECT, InitRole.ACCEPT}
            or peer.other is not end.node
            or end.other is not peer.node
            or peer.partner is not None
        ):
            raise WrongPayload(f"stream {stream} arrived at the wrong node: it is of {peer}")
        end.partner, peer.partner = peer, end
        self.count["tunnels"] += 1

    def ended(self, end: Connection) -> None:
        """Forget a connection that has ended."""
        if end.partner is not None and end.partner.ended:
            # Both ends are closed, so nothing of either stream can arrive any more.
            del self._streams[end.stream], self._streams[end.partner.stream]
        if end.role is InitRole.CONNECT:
            self.pair_of(end).connects.discard(end)
        elif end.role is InitRole.ACCEPT:
            self.pair_of(end).accept_ended_at = self.now

    def judge(self, end: Connection) -> None:
        """Check that the relay had a reason to close a connection, and that everything arrived before."""
        if end.quit:
            return
        if end.role is InitRole.LISTEN:
            wrong = None if end.node.listener is not end else "a listener was closed"
        elif end.partner is not None:
            wrong = self._judge_tunnel(end, end.partner)
        elif end.role is InitRole.CONNECT:
            wrong = self._judge_connect(end)
        else:
            wrong = self._judge_accept(end)
        if wrong is not None:
            self.fault(f"{wrong}: {end}, other end {end.partner}")

    @staticmethod
    def _judge_tunnel(end: Connection, peer: Connection) -> Optional[str]:
        if not peer.quit:
            return "a tunnel was closed although its other end is there"
        if peer.finishing and end.received != peer.sent:
            return "a tunnel was closed before everything was delivered"
        return None

    def _judge_connect(self, end: Connection) -> Optional[str]:
        pair = self.pair_of(end)
        assert end.other is not None
        excused = (
            self.now - end.opened >= PENDING_CONNECT_TIMEOUT - 2.0
            or end.other.listening_since > end.started - LATENCY
            or max(pair.rejected_at, pair.accept_ended_at) >= end.started
        )
        return None if excused else "a connect was closed without a reason"

    def _judge_accept(self, end: Connection) -> Optional[str]:
        pair = self.pair_of(end)
        for connect in pair.connects:
            claims = sum(1 for when in pair.claims if when >= connect.started)
            # The relay may already have closed a connect that is about to time out.
            fresh = (
                end.started - connect.opened > LATENCY
                and self.now - connect.opened < PENDING_CONNECT_TIMEOUT - 2.0
            )
            if connect.is_pending and not connect.quit and fresh and claims == 1:
                return f"an accept was closed although {connect} is pending"
        return None
