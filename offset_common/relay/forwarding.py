"""Tunnels: what one end sends is sealed again for the other, in order, bytes unchanged.

A tunnel end whose output queue is over its high-water mark stops its partner's reading, never the
keepalives. When one end ends, what it had sent is still delivered, then the other is closed.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from time import perf_counter

from offset_common.channel.resealing import Resealed, Resealer
from offset_common.relay.host import SHARED_BUFFER_SIZE
from offset_common.relay.inbox import OWN_BUFFER_FROM
from offset_common.relay.limits import KIB
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason

FIRST_READ_SIZE = 16 * KIB  # bytes read while nothing is known of the frames
HEAD_READ_SIZE = 2 * KIB  # bytes read for the begin of a large frame, whose rest goes to its own buffer

# How much is read of one end before the others have their turn: enough that the fixed cost of a turn
# does not count, and so little that a small message beside it does not wait.
FRAMES_ALONE, BYTES_ALONE = 64, 512 * KIB
FRAMES_IN_CROWD, BYTES_IN_CROWD = 12, 64 * KIB


class Tunnels:
    """The handler of tunnel ends."""

    role = "tunnel"

    def __init__(self) -> None:
        self._resealer = Resealer(SHARED_BUFFER_SIZE, perf_counter)

    def join(self, connect: Link, accept: Link, early: Sequence[bytes]) -> None:
        """Forward between two links from now on, `early` going to `accept` first."""
        if send_early(connect, accept, early):
            self.serve(connect, accept)

    def serve(self, connect: Link, accept: Link) -> None:
        """Forward between two links from now on."""
        connect.partner, accept.partner = accept, connect
        for link in (connect, accept):
            link.handler = self
            link.timeout = math.inf
            link.schedule()
            link.resume_reading()
            # Whole frames may be kept by now. Not at once: the shared buffer has what the acceptor sent.
            link.process_kept_soon()

    def readable(self, link: Link) -> None:
        """Read from one end, and send on to the other."""
        data = link.read(link.read_size or FIRST_READ_SIZE)
        if data is None:
            self.end(link, CloseReason.PEER_CLOSED)
            return
        self.process(link, data)
        if link.inbox.directly_read and link.reading:
            # It began a moment ago: most likely the rest is there as well.
            data = link.read()
            if data is None:
                self.end(link, CloseReason.PEER_CLOSED)
            else:
                self.process(link, data)

    def process(self, link: Link, data: memoryview) -> None:
        """Send on what `data` holds."""
        partner = link.partner
        if partner is None or link.connection is None or partner.connection is None:
            return
        host = link.host
        now, ration = host.loop.now, host.ration
        allowed = ration.is_free(link, now)
        batch = self._resealer.reseal(link.connection, partner.connection, data, now, allowed)
        if batch.plain_frames:
            ration.spent(batch.plain_frames, batch.plain_size, batch.plain_seconds, now)
        if batch.output:
            # "What it had sent is still delivered", also when the next frame is the peer's fault.
            partner.write(batch.output)
        if batch.error is not None:
            raise batch.error
        if link.closed or link.finishing is not None:
            return
        link.send_connection()
        if link.closed:
            return
        self._learn_read_size(link, batch)
        full = len(partner.outbox) > partner.host.budget.high_water
        link.keep(data, batch.taken, reserve=not full, whole=batch.stopped)
        # A frame that has its room is received to its end: who waits with room taken keeps others from it.
        if batch.deferred:
            host.defer(link)
        elif full and not link.inbox.has_room:
            link.pause_reading()
        elif batch.stopped:
            link.process_kept_soon()

    @staticmethod
    def _learn_read_size(link: Link, batch: Resealed) -> None:
        if not batch.frames:
            return
        frame = batch.taken // batch.frames
        if frame >= OWN_BUFFER_FROM:
            link.read_size = HEAD_READ_SIZE
        elif link.host.loop.crowded:
            link.read_size = min(frame * FRAMES_IN_CROWD, BYTES_IN_CROWD)
        else:
            link.read_size = min(frame * FRAMES_ALONE, BYTES_ALONE)

    def quiet(self, link: Link) -> None:
        """Nothing follows from that here."""

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


def send_early(connect: Link, accept: Link, early: Sequence[bytes]) -> bool:
    """Send to the acceptor what the connect sent before it was accepted; say whether both still live."""
    assert accept.connection is not None
    for message in early:
        accept.connection.send(message, accept.host.loop.now)
    accept.send_connection()
    if accept.closed:
        connect.finish(CloseReason.PARTNER_ENDED)
    return not accept.closed
