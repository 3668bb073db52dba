"""How a tunnel end closes: queued output is delivered, then the connection is closed.

"When one side ends, what it had sent is still delivered, then the other side is closed."

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import math

from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession, SocketConnection
from offset_common.relay.event_loop import READ
from offset_common.relay.lifecycle import Event, State
from offset_common.relay.limits import KIB, SMALL_READ

DISCARDED_IN_TURN = 64 * KIB  # bytes: a peer that keeps sending must not delay others


class Flushing(ConnectionSession):
    """Sends the queued output, and discards input, which only proves that the peer is alive."""

    __slots__ = ("_peer_ended",)

    state = State.FLUSHING

    def __init__(self, connection: SocketConnection) -> None:
        super().__init__(connection)
        self._peer_ended = False

    def on_readable(self) -> None:
        """Discard input."""
        connection = self.connection
        if connection.discard_input(DISCARDED_IN_TURN):
            connection.extend_deadline()
        else:
            # The peer closed its direction, and cannot prove that it is alive; it may still be reading.
            self._peer_ended = True
            connection.pause_reading()
            connection.set_deadline(math.inf)

    def on_output_sent(self) -> None:
        """Close the sending direction, and wait until the peer closes the other."""
        connection = self.connection
        try:
            connection.shut_down_writing()
        except OSError as error:
            connection.fail(error)
            return
        lingering = Lingering(connection)
        connection.change_session(Event.OUTPUT_SENT, lingering)
        if self._peer_ended:
            lingering.on_peer_end()


class Lingering(ConnectionSession):
    """Waits until the peer's system has received everything: closing earlier could reset the connection."""

    __slots__ = ("_left", "_since")

    state = State.LINGERING

    def __init__(self, connection: SocketConnection) -> None:
        super().__init__(connection)
        self._left = connection.count_unacknowledged()
        self._since = connection.loop.now

    def on_readable(self) -> None:
        """Discard input until the peer closes."""
        if not self.connection.discard_input(DISCARDED_IN_TURN):
            self.on_peer_end()

    def on_peer_end(self) -> None:
        """Close, or try again in a second if much output is unacknowledged: the peer may still be reading."""
        connection = self.connection
        if connection.count_unacknowledged() <= SMALL_READ:
            connection.close(CloseReason.PEER_CLOSED)
        elif not connection.polled_coarsely:
            connection.watch(READ)
            connection.poll_coarsely()

    def on_deadline(self) -> None:
        """Close, unless the peer's system is still acknowledging data."""
        connection = self.connection
        before, self._left = self._left, connection.count_unacknowledged()
        if self._left < before:
            self._since = connection.loop.now
        late = connection.loop.now - self._since >= connection.env.stall
        if not late and self._left:
            connection.extend_deadline()
        else:
            super().on_deadline()
