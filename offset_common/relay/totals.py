"""Counts and logs the ends of connections, those that are refused, and bugs."""

from __future__ import annotations

import logging
from collections import Counter
from typing import NamedTuple, Optional

from offset_common.identity import short_key
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.log import log_event


class Traffic(NamedTuple):
    """Bytes received from peers and sent to them."""

    received: int
    sent: int

    def plus(self, received: int, sent: int) -> Traffic:
        """Return these bytes plus more of each direction."""
        return Traffic(self.received + received, self.sent + sent)


class Totals:
    """Counts and logs how the connections of a relay end."""

    def __init__(self) -> None:
        self.ended: Counter[CloseReason] = Counter()  # connections, and those refused
        self.traffic = Traffic(0, 0)  # of the connections that have ended
        self.bugs = 0

    def count_refusal(self, address: PeerAddress, reason: CloseReason, detail: Optional[str] = None) -> None:
        """Count a connection that was closed at once."""
        self.ended[reason] += 1
        log_event(
            "connection refused",
            collapse=reason.name,
            collapse_by=address.prefix,
            address=address.text,
            reason=reason.value,
            detail=detail,
        )

    def count_end(
        self, connection: SocketConnection, reason: CloseReason, detail: str, name: Optional[str]
    ) -> None:
        """Count a connection that has ended; `name` is what the operator calls its key."""
        self.ended[reason] += 1
        self.traffic = self.traffic.plus(connection.received, connection.sent)
        role = connection.session.state.role
        log_event(
            "connection ended",
            collapse=reason.name,
            collapse_by=connection.address.prefix,
            address=connection.address.text,
            key=short_key(connection.key) if connection.key else "-",
            name=name,
            role="tunnel" if role == "closing" else role,  # only tunnels close gracefully
            reason=reason.value,
            detail=detail or None,
            received=connection.received,
            sent=connection.sent,
            seconds=round(connection.loop.now - connection.started_at, 1),
        )

    def count_bug(self, connection: SocketConnection, error: BaseException) -> None:
        """Count an unexpected exception, which ends the connection."""
        self.bugs += 1
        log_event("bug", logging.ERROR, collapse="bug", exc_info=error, address=connection.address.text)
