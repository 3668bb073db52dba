"""The slow path of the relay: it cuts, decrypts, decodes and handles frames one by one.

Tunnels have a fast path of their own (tunnel.py).
"""

from __future__ import annotations

from typing import Optional

from offset_common.channel.events import MessageReceived
from offset_common.constants import FRAME_LENGTH_SIZE, MAX_FRAME_SIZE
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession
from offset_common.relay.sessions.partial_frames import reserve_rest, rest_has_arrived, take_rest
from offset_common.wire.frames import frame_end

READ_SIZE = 4 * 1024  # bytes read in one turn, or the rest of a frame with reserved space
LIGHT_FRAMES, BUSY_FRAMES = 1, 8  # frames handled in a turn of a light connection, and of a busy one


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
        """Read and handle frames."""
        connection = self.connection
        if not reserve_rest(connection):
            if not rest_has_arrived(connection):
                return
            take_rest(connection)
        data = connection.read(max(READ_SIZE, connection.input.missing))
        if data is None:
            connection.close(CloseReason.PEER_CLOSED)
            return
        if _whole_frame_end(data, 0) is None:
            connection.keep(data, 0)
            return
        data = memoryview(bytes(data))  # a message may make another connection read into the shared buffer
        start, backlog = self._handle_frames(data)
        if not connection.closed:
            connection.send_pending()
        if not connection.closed:
            connection.keep(data, start, backlog)

    def _handle_frames(self, data: memoryview) -> tuple[int, bool]:
        """Handle some frames; return where the rest begins, and whether it may contain whole frames."""
        connection = self.connection
        protocol, now = connection.protocol, connection.loop.now
        assert protocol is not None
        start = 0
        for _ in range(LIGHT_FRAMES if connection.light else BUSY_FRAMES):
            end = _whole_frame_end(data, start)
            if end is None:
                return start, False
            if not self.has_room_for(end - start):
                return start, True
            event = protocol.receive_frame(bytes(data[start + FRAME_LENGTH_SIZE : end]), now)
            start = end
            if isinstance(event, MessageReceived):
                self.on_message(event.data)
                if connection.closed or connection.session is not self:
                    break
        return start, start < len(data)


def _whole_frame_end(data: memoryview, start: int) -> Optional[int]:
    if len(data) - start < FRAME_LENGTH_SIZE:
        return None
    end = frame_end(data, start, MAX_FRAME_SIZE)
    return end if end <= len(data) else None
