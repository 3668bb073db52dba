"""One connection in the event loop: a socket, the protocol state on it, its input and its output.

    reading:  socket --> receive buffer --> session.on_readable: whole frames are handled, the rest is kept
    writing:  protocol.data_to_send() --> socket, at once; bytes that it does not accept --> output buffer

A connection does not know roles. Its session (sessions/) handles the frames; the table in lifecycle.py says
which session may follow. Its base classes are WatchedSocket, ReadyEntry (event_loop.py) and QueueEntry.
"""

from __future__ import annotations

import math
import socket
from typing import Callable, NamedTuple, Optional

from offset_common.channel.connection import Connection
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.close_reason import CloseReason, reason_of
from offset_common.relay.event_loop import COARSE_INTERVAL, READ, WRITE, EventLoop
from offset_common.relay.input_buffer import InputBuffer, ReceiveBuffer
from offset_common.relay.lifecycle import DEADLINES, Event, next_state
from offset_common.relay.limits import LARGE_READ
from offset_common.relay.output_buffer import LOW_WATER, OutputBuffer
from offset_common.relay.session import Ended, Session
from offset_common.relay.sockets import NO_WAIT
from offset_common.relay.watched_socket import WatchedSocket
from offset_common.wire.frames import Buffer


class Environment(NamedTuple):
    """The environment that all connections of a process share.

    Args:
        loop: the event loop that owns them.
        buffers: the memory that they may fill.
        receive_buffer: the memory that they read into.
        stall: seconds that a peer may leave its output unread.
        report_end: called once for each connection, when it has ended, with the reason and a detail.
        report_bug: called with an unexpected exception, which ends the connection.
    """

    loop: EventLoop
    buffers: BufferPool
    receive_buffer: ReceiveBuffer
    stall: float
    report_end: Callable[[SocketConnection, CloseReason, str], None]
    report_bug: Callable[[SocketConnection, BaseException], None]


class SocketConnection(WatchedSocket):
    """A connection from its acceptance to its end.

    Args:
        env: what all connections share.
        sock: a connected socket; it may be blocking, but the loop never waits for it.
        address: the peer's address.
    """

    __slots__ = (
        "_deadline",
        "_end_reason",
        "_full_read",
        "_when_writable",
        "account",
        "address",
        "closed",
        "env",
        "input",
        "key",
        "output",
        "protocol",
        "received",
        "sent",
        "session",
        "started_at",
    )

    def __init__(self, env: Environment, sock: socket.socket, address: PeerAddress) -> None:
        super().__init__(env.loop, sock, address.prefix)
        self.env = env
        self.address = address
        self.account = env.buffers.open_account(address.prefix)
        self.input = InputBuffer(self.account, env.receive_buffer)
        self.output = OutputBuffer(self.account)
        self.protocol: Optional[Connection] = None  # set between the handshake and the end
        self.key = b""  # the peer's public key, once it is proven
        self.session: ConnectionSession = ENDED
        self.received = 0  # bytes
        self.sent = 0
        self.started_at = self.loop.now
        self.closed = False
        self._deadline = math.inf  # of the state
        self._when_writable: Optional[Callable[[], None]] = None
        self._end_reason: Optional[CloseReason] = None  # set when the connection begins to close
        self._full_read = False  # the last read got all that it asked for, or a lot

    def start(self, session: ConnectionSession) -> None:
        """Set the first session, and watch the socket."""
        self.session = session
        self.extend_deadline()
        self.begin_reading()

    def begin_reading(self) -> None:
        """Watch the socket, or watch it again after `lend_socket`; input that was kept gets a turn."""
        self.watch(READ | WRITE if self.output.size else READ)
        self._schedule()
        if self.input.backlog:
            self.loop.request_turn(self)

    def lend_socket(self) -> socket.socket:
        """Return the socket for another thread; the loop ignores it until `begin_reading`."""
        self.watch(0)
        self.loop.deadlines.cancel(self)
        return self.sock

    def change_session(self, event: Event, session: ConnectionSession, elapsed: float = 0.0) -> None:
        """Replace the session as the table in lifecycle.py allows; see `extend_deadline` for `elapsed`.

        Raises:
            LocalProtocolError: the table does not allow it.
        """
        state = next_state(self.session.state, event)
        assert session.state is state, f"{event.name} leads to {state.name}"
        self.session = session
        self.extend_deadline(elapsed)

    def adopt(self, protocol: Connection, received: bytes, key: Optional[bytes] = None) -> None:
        """Continue a connection after its handshake.

        Args:
            protocol: the protocol state.
            received: the bytes received since then.
            key: the peer's public key, if another host has verified it.
        """
        self.protocol = protocol
        self.key = key or protocol.peer_public_key
        self.input.put(received)

    @property
    def must_be_quick(self) -> bool:
        """Whether the turn must be short: thousands of other light connections may wait."""
        return self.light and self.loop.turns.waiting > 0

    def add_traffic(self, received: int, sent: int) -> None:
        """Count bytes that another thread or process moved."""
        self.received += received
        self.sent += sent

    def extend_deadline(self, elapsed: float = 0.0) -> None:
        """Restart the state's deadline; `elapsed` seconds of it have already passed."""
        deadline = DEADLINES.get(self.session.state)
        self.set_deadline(math.inf if deadline is None else deadline.seconds - elapsed)

    def set_deadline(self, seconds: float) -> None:
        """Call the session's `on_deadline` in `seconds`, which may be infinite."""
        self._deadline = self.loop.now + seconds
        self._schedule()

    def on_turn(self, events: int) -> bool:
        """Write output, then read; return whether it is busy. An error ends only this connection."""
        try:
            if events & WRITE and not self.closed:
                self._flush()
            if self.reading and (events & READ or self.input.backlog):
                self.session.on_readable()
            if self.session.may_poll_coarsely and not self.input.kept and self.poll_coarsely():
                self._schedule()
        except BlockingIOError:
            pass  # the socket is not ready after all
        except Exception as error:
            self.fail(error)
        rest = self.input.reserved  # of a partial frame
        left = self._full_read or self.input.backlog or rest > LARGE_READ or self.bytes_awaited > 1
        return left or not self.session.settled

    def on_deadline(self) -> None:
        """Handle an expired deadline; an error ends only this connection."""
        if not self.closed:  # an earlier deadline of this round may have closed it
            self.call(self._check_time)

    def call(self, task: Callable[..., object], *arguments: object) -> None:
        """Call `task` for this connection; an error ends only this connection."""
        try:
            task(*arguments)
        except Exception as error:
            self.fail(error)

    # Reading.

    def read(self, most: int) -> Optional[memoryview]:
        """Read once; return all unhandled bytes, or None if the peer has closed.

        The bytes are valid until any connection reads again. `keep` stores those that are left.

        Args:
            most: the maximum number of bytes.

        Raises:
            OSError: the connection is lost.
        """
        view, fill, end = self.input.space(most)
        if self.input.backlog:
            return view[:fill]
        try:
            count = self.sock.recv_into(view[fill:end], 0, NO_WAIT)
        except BlockingIOError:
            return view[:fill]
        if not count:
            return None
        self.received += count
        # After a full read, more has probably arrived, unless the read was limited to the end of a frame.
        # After a large read, the connection counts as busy even if nothing is left: its turns are long.
        ends_frame = most == self.input.reserved
        self._full_read = count >= (LARGE_READ if ends_frame else min(end - fill, LARGE_READ))
        return view[: fill + count]

    def keep(self, data: memoryview, start: int, backlog: bool = False) -> None:
        """Keep what `read` returned, from `start` on; a `backlog` of whole frames gets another turn."""
        self.input.keep(data, start, backlog)
        if backlog:
            self.loop.request_turn(self)

    def wait_for_space(self, holder: SocketConnection, size: int) -> None:
        """Pause reading until there is space for `size` bytes in the account of `holder`."""
        self.pause_reading()
        if self.protocol is not None:
            self.protocol.mark_received(self.loop.now)  # it may wait as long as the idle timeout
        self.account.wait(holder.account, size, self.resume_reading)

    def pause_reading(self) -> None:
        """Stop reading. The idle timeout also pauses, unless the connection waits for space."""
        self.watch_less(READ)
        self.account.stop_waiting()  # or free space would resume reading

    def resume_reading(self) -> None:
        """Resume reading."""
        if self.closed or self.reading:
            return
        self.account.stop_waiting()
        self.watch_more(READ)
        self.loop.request_turn(self, READ)
        if self.protocol is not None:
            self.protocol.mark_received(self.loop.now)

    # Writing.

    def call_when_writable(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the socket is writable and the output at most the low-water mark."""
        self._when_writable = callback
        self.watch_more(WRITE)

    def write(self, data: Buffer) -> None:
        """Send `data`, and queue what the socket does not accept; an error ends only this connection."""
        if self.closed:
            return
        taken = 0
        if not self.output.size:
            try:
                taken = self.sock.send(data, NO_WAIT)
            except BlockingIOError:
                pass
            except OSError as error:
                self.fail(error)
                return
            self.sent += taken
            if taken == len(data):
                return
            self.watch_more(WRITE)
            data = memoryview(data)[taken:]
        self.output.append(data, self.loop.now)
        self._schedule()

    def send_message(self, message: bytes) -> None:
        """Send one message to the peer."""
        assert self.protocol is not None
        self.protocol.send(message, self.loop.now)
        self.send_pending()

    def send_pending(self) -> None:
        """Write the frames that the protocol has queued."""
        if self.protocol is not None and self.protocol.outgoing:
            self.write(self.protocol.data_to_send())

    def _flush(self) -> None:
        if self.output.size:
            self.sent += self.output.write_to(self.sock, self.loop.now)
        if not self.output.size:
            self.watch_less(WRITE)
            self.session.on_output_sent()
        if self._when_writable is not None and self.output.size <= LOW_WATER:
            callback, self._when_writable = self._when_writable, None
            callback()

    # Time.

    def _schedule(self) -> None:
        when = self._deadline
        if self.protocol is not None:
            when = min(when, self.protocol.next_deadline())
        if self.output.size:
            when = min(when, self.output.moved_at + self.env.stall)
        if when == math.inf:
            self.loop.deadlines.cancel(self)
        else:
            if self.polled_coarsely:
                when = math.ceil(when / COARSE_INTERVAL) * COARSE_INTERVAL
            self.loop.deadlines.schedule(self, when)

    def _check_time(self) -> None:
        now = self.loop.now
        if now >= self._deadline:
            if self.queued and not self.session.settled:
                self.set_deadline(0.0)  # its input waits for a turn: check again at the next tick
            else:
                self.session.on_deadline()
        elif self.output.size and now - self.output.moved_at >= self.env.stall:
            self.close(CloseReason.STALLED)
        elif self.protocol is not None:
            # A connection that never gets space for its partial frame ends with the idle timeout.
            if not self.reading and not self.account.waiting:
                self.protocol.mark_received(now)
            if self.protocol.is_silent(now) and not self.input.kept and self.is_readable():
                # Its input waits for a turn, as above. A partial frame gets no such extension.
                self.loop.deadlines.schedule(self, now)
                return
            self.protocol.handle_time(now)
            self.send_pending()
        if not self.closed:
            self._schedule()

    # The end:
    #     finish       as the session does it: now, or once a tunnel end has sent its queued output
    #     begin_close  once the queued output is sent: the `finish` of a tunnel end
    #     close, fail  now; `fail` because of an exception
    #     release      only the socket and the memory: by `close`, or because a worker process has taken over

    def finish(self, reason: CloseReason) -> None:
        """End the connection as its session does it, unless it is ending; an error ends only this one."""
        if not self.closed and self._end_reason is None:
            self.call(self.session.finish, reason)

    def begin_close(self, reason: CloseReason, session: ConnectionSession) -> None:
        """Close for `reason` once `session` (sessions/closing.py) has sent the queued output."""
        self._end_reason = reason
        self._when_writable = None
        self.protocol = None  # no more messages, not even keepalives
        self.account.stop_waiting()
        self.input.clear()
        self.await_bytes(1)
        # Input is read and discarded: closing a socket that has unread input resets the connection, and
        # the peer may lose the last output.
        self.watch_more(READ)
        self.change_session(Event.FINISH, session)
        if not self.output.size:
            session.on_output_sent()

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the connection now."""
        if self.closed:
            return
        next_state(self.session.state, Event.CLOSE)
        self.closed = True
        ends_gracefully = self._end_reason is not None and reason is CloseReason.PEER_CLOSED
        if not ends_gracefully and reason is not CloseReason.SHUTDOWN:
            self.drop_unacknowledged()
        self.release()
        if self._end_reason is not None:
            if reason is not CloseReason.PEER_CLOSED:
                detail = reason.value
            reason = self._end_reason
        self.env.report_end(self, reason, detail)
        self.session.on_closed(reason)
        self.session = ENDED

    def fail(self, error: BaseException) -> None:
        """End the connection because of an exception: the peer's fault, the network's, or a bug."""
        if not self.closed:
            reason, detail = reason_of(error)
            if reason is CloseReason.BUG:
                self.env.report_bug(self, error)
            self.close(reason, detail)
        # The traceback refers to this connection, and would keep it alive until the next garbage collection.
        error.__traceback__ = error.__context__ = None

    def release(self) -> None:
        """Close the socket and release all memory; only the traffic counters stay."""
        self.watch(0)
        self.loop.deadlines.cancel(self)
        self.account.stop_waiting()
        self.input.clear()
        self.output.clear()
        self._when_writable = None
        self.sock.close()
        self.protocol = None


ConnectionSession = Session[SocketConnection]
ENDED = Ended[SocketConnection]()
