"""Tunnel ends: each peer's messages are re-encrypted for the other, in order and unchanged.

An end whose output is over the high-water mark pauses reading at the other end, but not the keepalives.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import sys
from time import perf_counter
from typing import Optional

from offset_common.channel.forwarder import Forwarder
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession, SocketConnection
from offset_common.relay.input_buffer import OWN_BUFFER_FROM, RECEIVE_BUFFER_SIZE
from offset_common.relay.lifecycle import Event, State
from offset_common.relay.limits import KIB, LARGE_READ, LIGHT_FRAME, SMALL_READ
from offset_common.relay.policy import MakeMeter, Meter
from offset_common.relay.sessions.closing import Flushing
from offset_common.relay.sessions.partial_frames import (
    pause_until_space,
    reserve_rest,
    reserve_unchecked,
    rest_has_arrived,
)
from offset_common.relay.sessions.pending_connect import PendingConnect

FIRST_FRAME_SIZE = 1 * KIB  # bytes, assumed until frames have arrived

# Frames and bytes of one turn.
LIGHT_TURN = (1, LARGE_READ)  # of a light connection while others wait, of which there may be thousands
SHARED_TURN = 128 * KIB  # bytes, of a busy connection while others wait
LONE_TURN = 512 * KIB  # bytes, while no other connection waits
MOST_FRAMES = 256  # of a shared or lone turn ...
FRAMES_BESIDE_LIGHT = 12  # ... and while small messages of other connections may wait for its end
FRAMES_READ = 8  # a read has room for at least this many frames of average size: the next may be larger
LIGHT_INTERVAL = 0.02  # seconds after a light turn in which the next one is likely


class Tunnel(ConnectionSession):
    """One end of a tunnel.

    Args:
        connection: the connection.
        sink: the connection at the other end.
        forwarder: re-encrypts frames, with buffers that all tunnels share.
        meter: the meter of this end, if it has one.
    """

    __slots__ = ("_forwarder", "_frame_size", "_sink", "meter")

    state = State.TUNNEL

    def __init__(
        self,
        connection: SocketConnection,
        sink: SocketConnection,
        forwarder: Forwarder,
        meter: Optional[Meter],
    ) -> None:
        super().__init__(connection)
        self.meter = meter
        self._forwarder = forwarder
        self._sink: Optional[SocketConnection] = sink  # None once one end has ended
        self._frame_size = FIRST_FRAME_SIZE  # bytes, the average of the last turn

    def on_readable(self) -> None:
        """Read and forward."""
        connection = self.connection
        while self._sink is not None:
            sink = self._sink
            frames, size = self._turn_limits()
            most = self._make_room(sink, size)
            if most and self.meter is not None and not connection.input.backlog:
                most = self.meter.allow(most)
                if not most:
                    connection.pause_reading()
            if not most:
                return
            reserved, before = connection.input.reserved, connection.received
            data = connection.read(most)
            if self.meter is not None:
                self.meter.count(connection.received - before)
            if data is None:
                self.finish(CloseReason.PEER_CLOSED)
                return
            forwarded = self._forward(data, sink, frames)
            if forwarded or reserved or connection.input.frame_size() <= SMALL_READ:
                return
            # Only the start of a large frame was read, and more of it has probably arrived: read again.

    def _make_room(self, sink: SocketConnection, size: int) -> int:
        """Return how many bytes may be read, about `size` at most; if none, pause until `sink` has room."""
        connection = self.connection
        fits = not connection.input.kept or reserve_rest(connection, sink)
        if not fits and not self._may_pass_without_space(sink):
            return 0
        # The start of a frame, which the next read may complete, needs room too.
        reserved, room = connection.input.reserved, sink.output.room - SMALL_READ
        if room < SMALL_READ and not reserved and not self._has_kernel_room(sink):
            return 0
        # A frame with reserved space is read to its end; of other input, as much as may be kept.
        return max(SMALL_READ, reserved, min(size, room, connection.account.read_ahead(sink.account)))

    def _has_kernel_room(self, sink: SocketConnection) -> bool:
        """Return whether the system takes more output for `sink` at once; if not, pause until it does."""
        if not sink.output.size and sink.is_writable():
            return True
        self.connection.pause_reading()
        sink.call_when_writable(self.connection.resume_reading)
        return False

    def _may_pass_without_space(self, sink: SocketConnection) -> bool:
        """Return whether the rest of a frame, for which there is no space, passes in this turn; if not, wait.

        It needs no space if all of it has arrived, and the system's buffer of `sink` takes it. The system may
        take less than it promised, if it is short of memory.
        """
        connection = self.connection
        size = connection.input.frame_size()
        if size > sink.send_buffer_size() // 4 or not sink.account.may_overdraw():
            pause_until_space(connection, sink)
        elif rest_has_arrived(connection, sink) and self._has_kernel_room(sink):
            needed = max(SMALL_READ, size - connection.input.kept)
            if self.meter is None or self.meter.allow(needed, needed):
                reserve_unchecked(connection)
                return True
            connection.pause_reading()
        return False

    def _forward(self, data: memoryview, sink: SocketConnection, frames: int) -> int:
        """Forward at most `frames` whole frames; return how many there were."""
        connection = self.connection
        assert connection.protocol is not None and sink.protocol is not None
        slow_frame = LIGHT_FRAME if connection.must_be_quick else sys.maxsize
        result = self._forwarder.forward(
            connection.protocol, sink.protocol, data, connection.loop.now, frames, slow_frame
        )
        if result.output:
            # "What it had sent is still delivered", even if the next frame breaks the protocol.
            sink.write(result.output)
        if result.error is not None:
            raise result.error
        if connection.session is self:  # writing may have ended the tunnel
            connection.keep(data, result.taken, result.more)
            if connection.input.kept > SMALL_READ and connection.input.needs_reservation():
                # It must not wait for space with this much in memory: others might wait for this memory.
                connection.input.reserve_frame()
            if result.frames:
                self._frame_size = result.taken // result.frames
            connection.send_pending()
        return result.frames

    def _turn_limits(self) -> tuple[int, int]:
        """Return how many frames may be forwarded, and how many bytes read, in this turn."""
        loop = self.connection.loop
        if self.connection.must_be_quick:
            frames, size = LIGHT_TURN
        else:
            light_lately = loop.now < loop.last_light_turn_beside(self.connection) + LIGHT_INTERVAL
            frames = FRAMES_BESIDE_LIGHT if light_lately else MOST_FRAMES
            size = SHARED_TURN if loop.turns.waiting else LONE_TURN
        if self._frame_size >= OWN_BUFFER_FROM:
            return frames, SMALL_READ  # the start of a frame; the rest is read into its own buffer
        return frames, min(self._frame_size * max(frames, FRAMES_READ), size)

    def finish(self, reason: CloseReason) -> None:
        """End the tunnel; both peers still receive their queued output."""
        sink = self._separate()
        if sink is not None:
            try:
                self.connection.begin_close(reason, Flushing(self.connection))
            finally:  # even if this end cannot close gracefully
                sink.finish(CloseReason.PARTNER_ENDED)

    def on_closed(self, reason: CloseReason) -> None:
        """End the other side too."""
        sink = self._separate()
        if sink is not None:
            sink.finish(CloseReason.PARTNER_ENDED)

    def _separate(self) -> Optional[SocketConnection]:
        """Stop reading, and forget the other end; return it if it does not know that this end has ended."""
        sink, self._sink = self._sink, None
        if sink is not None and self.meter is not None:
            self.meter.end()
        return sink


class Tunnels:
    """Makes tunnels in this process.

    Args:
        make_meter: makes the meters of their ends.
    """

    def __init__(self, make_meter: MakeMeter = lambda source, sink_key: None) -> None:
        self._make_meter = make_meter
        self._forwarder = Forwarder(RECEIVE_BUFFER_SIZE, perf_counter)

    def make_tunnel(self, pending: PendingConnect, acceptor: SocketConnection) -> None:
        """Forward between a pending connect and its acceptor, the early data first."""
        for end in self.prepare(pending, acceptor):
            end.connection.resume_reading()

    def prepare(self, pending: PendingConnect, acceptor: SocketConnection) -> tuple[Tunnel, Tunnel]:
        """Make the two ends of a tunnel, and send the early data to the acceptor; reading may be paused."""
        connect, accept = self.make_ends(pending.connection, acceptor)
        early = pending.take_early_data()
        pending.connection.change_session(Event.ACCEPTED, connect)
        acceptor.change_session(Event.ACCEPT, accept)
        assert acceptor.protocol is not None
        for message in early:
            acceptor.protocol.send(message, acceptor.loop.now)
        acceptor.send_pending()
        return connect, accept

    def make_ends(self, connect: SocketConnection, accept: SocketConnection) -> tuple[Tunnel, Tunnel]:
        """Make the two ends of a tunnel."""
        return (
            Tunnel(connect, accept, self._forwarder, self._make_meter(connect, accept.key)),
            Tunnel(accept, connect, self._forwarder, self._make_meter(accept, connect.key)),
        )
