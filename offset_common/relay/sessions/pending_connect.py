"""A connect that waits for its listener, and the data that its peer sends meanwhile.

"C never learns that it waits, and may send at once: what it sends must be kept, in order, for the acceptor."

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from offset_common.constants import PENDING_CONNECT_TIMEOUT
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import KIB, SMALL_READ
from offset_common.relay.policy import Meter
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.relay.sessions.partial_frames import pause_until_space, reserve_rest
from offset_common.wire.messages import max_payload_size

EARLY_DATA_SIZE = 64 * KIB  # bytes kept of what the peer sends before the connect is accepted
MESSAGE_OVERHEAD = 512  # bytes added for each early message: sending it later takes 10 us


class PendingConnect(MessageSession):
    """Keeps early data in order.

    Args:
        connection: the connection.
        early: the messages that its peer has already sent.
        age: seconds since its peer asked.
        meter: the meter of what its peer sends, if it has one.
    """

    __slots__ = ("_attended", "_early", "_meter", "_size", "since")

    state = State.PENDING_CONNECT

    def __init__(
        self,
        connection: SocketConnection,
        early: Sequence[bytes] = (),
        age: float = 0.0,
        meter: Optional[Meter] = None,
    ) -> None:
        super().__init__(connection)
        self._meter = meter
        self.since = connection.loop.now - age  # the time at which the peer asked
        self._attended = True  # its listener is there
        self._early: list[bytes] = []
        self._size = 0  # bytes counted for early data
        for message in early:
            self.on_message(message)

    def await_listener(self, until: float) -> None:
        """Close the connection unless its listener comes before a time, in seconds."""
        self._attended = False
        until = min(until, self.since + PENDING_CONNECT_TIMEOUT)
        self.connection.set_deadline(until - self.connection.loop.now)

    def listener_came(self) -> None:
        """Wait until the listener accepts."""
        if not self._attended:
            self._attended = True
            self.connection.extend_deadline(self.connection.loop.now - self.since)

    def on_deadline(self) -> None:
        """Close the connection: it has no listener, or is not accepted."""
        if self._attended:
            super().on_deadline()
        else:
            self.connection.close(CloseReason.NO_LISTENER)

    def on_readable(self) -> None:
        """Read while there is room for early data; the rest waits in the socket buffer."""
        connection = self.connection
        if self._size + connection.input.needs_reservation() > EARLY_DATA_SIZE:
            connection.pause_reading()  # until it is accepted
        elif not reserve_rest(connection):
            pause_until_space(connection)  # even if all of it has arrived: its message will be kept
        elif self._meter is None or connection.input.backlog:
            super().on_readable()
        else:
            self._read_metered(self._meter)

    def _read_metered(self, meter: Meter) -> None:
        connection = self.connection
        most = max(SMALL_READ, connection.input.reserved)  # bytes that the next read can return
        if not meter.allow(most, most):
            connection.pause_reading()
            return
        before = connection.received
        try:
            super().on_readable()
        finally:
            meter.count(connection.received - before)

    def has_room_for(self, frame_size: int) -> bool:
        """Return whether a frame may be decoded: a small one may unpack to many times its size."""
        size = max_payload_size(frame_size)
        if not self.connection.account.fits(size):
            self.connection.wait_for_space(self.connection, size)
            return False
        return True

    def on_message(self, message: bytes) -> None:
        """Keep a message for the acceptor."""
        self._early.append(message)
        self._size += len(message) + MESSAGE_OVERHEAD
        self.connection.account.add(len(message) + MESSAGE_OVERHEAD)

    def take_early_data(self) -> list[bytes]:
        """Return the messages kept so far, and forget them; nothing more must be read."""
        if self._meter is not None:
            self._meter.end()
        early, self._early = self._early, []
        self.connection.account.add(-self._size)
        self._size = 0
        return early

    def on_closed(self, reason: CloseReason) -> None:
        """Discard the early data."""
        self.take_early_data()
