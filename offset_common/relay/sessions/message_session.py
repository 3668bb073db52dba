"""The slow path of the relay: each turn decrypts, decodes and handles one frame.

Tunnels have a fast path of their own (tunnel.py).
"""

from __future__ import annotations

from offset_common.channel.events import MessageReceived
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession
from offset_common.relay.limits import LIGHT_FRAME, SMALL_READ
from offset_common.relay.sessions.partial_frames import reserve_rest, reserve_unchecked, rest_has_arrived
from offset_common.wire.frames import frame_end


class MessageSession(ConnectionSession):
    """A session that handles single messages."""

    __slots__ = ()

    def on_message(self, message: bytes) -> None:
        """Handle one message from the peer."""
        raise NotImplementedError

    def has_room_for(self, frame_size: int) -> bool:
        """Return whether a frame of this size may be decoded now; if not, pause reading."""
        return True

    def on_readable(self) -> None:
        """Read, and handle one frame."""
        connection = self.connection
        if not reserve_rest(connection):
            if not rest_has_arrived(connection):
                return
            reserve_unchecked(connection)
        data = connection.read(max(SMALL_READ, connection.input.reserved))
        if data is None:
            connection.close(CloseReason.PEER_CLOSED)
            return
        end = frame_end(data, 0, MAX_FRAME_SIZE)
        if not end:
            connection.keep(data, 0)
        elif (connection.must_be_quick and end > LIGHT_FRAME) or not self.has_room_for(end):
            connection.keep(data, 0, backlog=True)
        else:
            frame = bytes(data[FRAME_LENGTH_SIZE:end])
            # First of all: a message may hand the connection, with its input, to another part of the relay.
            connection.keep(data, end, backlog=end < len(data))
            assert connection.protocol is not None
            event = connection.protocol.receive_frame(frame, connection.loop.now)
            if isinstance(event, MessageReceived):
                self.on_message(event.data)
            connection.send_pending()
