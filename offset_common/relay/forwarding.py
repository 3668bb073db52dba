"""Tunnels: what one end sends is sealed again for the other, in order, bytes unchanged.

A tunnel end whose output queue is over its high-water mark stops its partner's reading, never the
keepalives. When one end ends, what it had sent is still delivered, then the other is closed.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from struct import Struct

from offset_common.channel.events import MessageReceived
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason
from offset_common.wire.frames import check_length

READ_SIZE = 64 * 1024  # bytes read of one end before the others have their turn

_LENGTH = Struct(">Q")


class Tunnels:
    """The handler of tunnel ends."""

    role = "tunnel"

    def join(self, connect: Link, accept: Link, early: Sequence[bytes]) -> None:
        """Forward between two links from now on, `early` going to `accept` first."""
        connect.partner, accept.partner = accept, connect
        now = connect.host.loop.now
        assert accept.connection is not None
        for message in early:
            accept.connection.send(message, now)
        accept.send_connection()
        for link in (connect, accept):
            link.handler = self
            link.timeout = math.inf
            link.schedule()
        connect.resume_reading()
        # What came of the next frames may be whole by now; the acceptor's rest is processed by its caller.
        self.process(connect, connect.reread())

    def readable(self, link: Link) -> None:
        """Read from one end, and send on to the other."""
        data = link.read(READ_SIZE)
        if data is None:
            self.end(link, CloseReason.PEER_CLOSED)
        else:
            self.process(link, data)

    def process(self, link: Link, data: memoryview) -> None:
        """Send on what `data` holds."""
        partner = link.partner
        if partner is None:
            return
        start = 0
        try:
            start = self._forward(link, partner, data)
        finally:
            # "What it had sent is still delivered", also when the next frame is the peer's fault.
            partner.send_connection()
        if link.closed:
            return
        link.send_connection()
        link.keep(data, start)
        if partner.queued > partner.host.budget.high_water:
            link.pause_reading()

    def drained(self, link: Link) -> None:
        """The output of `link` has room again: read its partner on."""
        if link.partner is not None:
            link.partner.resume_reading()

    def end(self, link: Link, reason: CloseReason) -> None:
        """End the tunnel of `link`, whose peer closed; both ends still get what is queued for them."""
        partner = link.partner
        link.finish(reason)
        if partner is not None:
            self.partner_ended(partner)

    @staticmethod
    def partner_ended(link: Link) -> None:
        """Deliver what is queued for `link`, whose partner is gone, then close it."""
        link.partner = None
        link.finish(CloseReason.PARTNER_ENDED)

    @staticmethod
    def _forward(link: Link, partner: Link, data: memoryview) -> int:
        source, sink, now = link.connection, partner.connection, link.host.loop.now
        assert source is not None and sink is not None
        start = 0
        while len(data) - start >= FRAME_LENGTH_SIZE:
            length: int = _LENGTH.unpack_from(data, start)[0]
            check_length(length, MAX_FRAME_SIZE)
            end = start + FRAME_LENGTH_SIZE + length
            if end > len(data):
                break
            event = source.receive_frame(bytes(data[start + FRAME_LENGTH_SIZE : end]), now)
            if isinstance(event, MessageReceived):
                sink.send(event.data, now)
            start = end
        return start
