"""One connection as the loop has it: a socket, the state machine on it, and what waits to be written.

    reading:  socket --> the host's shared buffer --> whole frames --> the link's handler
    writing:  connection.data_to_send() --> socket, at once; what it does not take --> the output queue

What a link does with its frames is its role's matter: `handler` (roles.py, forwarding.py).
"""

from __future__ import annotations

import math
import socket
from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.relay.host import SHARED_BUFFER_SIZE, Handler, Host, Remote
from offset_common.relay.inbox import Inbox
from offset_common.relay.limits import FREE_BUFFER_SIZE, LINGER_TIMEOUT
from offset_common.relay.loop import DOZE_TICK, READ, WRITE
from offset_common.relay.outbox import Buffer, Outbox, is_on_its_way
from offset_common.relay.reasons import CloseReason, reason_of

_NO_WAIT = socket.MSG_DONTWAIT  # the sockets block: handshakes.py says why


class Link:
    """A connection from its acceptance to its end.

    Args:
        host: what it shares with the others.
        sock: connected; may block, the loop never waits for it.
        address: of the peer, to show.
        handler: what to do with what comes.
    """

    __slots__ = (
        "_mask",
        "address",
        "closed",
        "connection",
        "doze_at",
        "dozing",
        "finishing",
        "handler",
        "host",
        "inbox",
        "key",
        "note",
        "origin",
        "outbox",
        "partner",
        "read_size",
        "received",
        "remote",
        "sent",
        "sock",
        "started",
        "timeout",
        "timeout_reason",
    )

    def __init__(self, host: Host, sock: socket.socket, address: str, origin: str, handler: Handler) -> None:
        self.host = host
        self.sock = sock
        self.address = address
        self.origin = origin  # what limits for each address count by
        self.handler = handler
        self.connection: Optional[Connection] = None
        self.key = b""  # of the peer, once it is proven
        self.partner: Optional[Link] = None  # the other end of the tunnel
        self.remote: Optional[Remote] = None  # the process that serves it instead of this one
        self.note: object = None  # what the role keeps about it
        self.inbox = Inbox(host)
        self.outbox = Outbox(host.budget)
        self.read_size = 0  # bytes that are worth reading at once, as the role found; 0 if it does not know
        self.received = 0  # bytes
        self.sent = 0
        self.started = host.loop.now
        self.closed = False
        self.dozing = False  # looked at once a second
        self.doze_at = math.inf  # when the role wants to hear that nothing happened
        self.finishing: Optional[CloseReason] = None  # set once only what is queued is still to be sent
        self.timeout = math.inf  # of the role, besides the connection's own deadlines
        self.timeout_reason = CloseReason.IDLE
        self._mask = 0

    # Called by the loop.

    def on_ready(self, mask: int) -> None:
        """Write what waits, read what came; whatever goes wrong ends this link and nothing else."""
        try:
            if mask & WRITE and not self.closed:
                self._flush()
            if mask & READ and not self.closed:
                if self.finishing is None:
                    self.handler.readable(self)
                else:
                    self._discard()
        except BlockingIOError:
            pass  # what made it ready is gone already
        except Exception as error:
            self.fail(error)

    def on_deadline(self) -> None:
        """Do what is due; whatever goes wrong ends this link and nothing else."""
        try:
            self._check_time()
        except Exception as error:
            self.fail(error)

    def fail(self, error: BaseException) -> None:
        """End the link for an exception: the peer's fault, the network's, or a bug of ours."""
        if not self.closed:
            reason, detail = reason_of(error)
            if reason is CloseReason.NO_MEMORY:
                self.host.no_memory()
            elif reason is CloseReason.BUG:
                self.host.report_bug(self, error)
            self.close(reason, detail)
        # Its traceback has frames that have it, and this link: they would stay until a search for cycles.
        error.__traceback__ = error.__context__ = None

    def _process_kept(self) -> None:
        if self.closed or self.finishing is not None or not self._mask & READ:
            return
        try:
            self.handler.process(self, self.reread())
        except Exception as error:
            self.fail(error)

    # Reading.

    def read(self, most: int = SHARED_BUFFER_SIZE) -> Optional[memoryview]:
        """Read once; return all bytes that wait to be cut into frames, or None at the peer's end.

        The bytes are good until the next read of any link. `keep` must follow.

        Args:
            most: bytes to read at most.

        Raises:
            OSError: the connection is lost.
        """
        inbox = self.inbox
        if inbox.backlog:
            return self.reread()
        if self.host.budget.exhausted:
            most = FREE_BUFFER_SIZE
        view, fill, end = inbox.room(most)
        try:
            count = self.sock.recv_into(view[fill:end], 0, _NO_WAIT)
        except BlockingIOError:
            return view[:fill]
        if not count:
            return None
        if count < end - fill:
            self.host.loop.little_to_do()
        self.received += count
        return view[: fill + count]

    def reread(self) -> memoryview:
        """Return what `keep` kept, as `read` would, without reading the socket; `keep` must follow."""
        view, fill, _ = self.inbox.room(0)
        return view[:fill]

    def keep(self, data: memoryview, start: int, reserve: bool = True, whole: bool = False) -> None:
        """Keep what is left from `start` of what `read` gave.

        Args:
            data: what `read` gave.
            start: where what is left begins.
            reserve: take room for all of a large frame now; while there is none, the link is not read.
            whole: there are whole frames in it; nothing more is read before they are processed.
        """
        if not self.inbox.keep(self, data, start, reserve, whole):
            self.pause_reading()

    def process_kept_soon(self) -> None:
        """Let the handler go on with what is kept, in the next round."""
        self.host.loop.soon(self._process_kept)

    @property
    def reading(self) -> bool:
        """Whether the socket is read when something comes."""
        return bool(self._mask & READ)

    def pause_reading(self) -> None:
        """Leave what comes in the kernel; the peer's silence is not counted meanwhile."""
        self._watch(self._mask & ~READ)

    def resume_reading(self) -> None:
        """Read on after `pause_reading`."""
        if not self.closed and self.finishing is None and not self._mask & READ:
            self._watch(self._mask | READ)
            if self.inbox.backlog:
                self.process_kept_soon()
            elif not self.inbox.reserve(self):
                self.pause_reading()
            if self.connection is not None:
                self.connection.channel.peer_is_heard(self.host.loop.now)

    # Writing.

    def write(self, data: Buffer) -> None:
        """Write `data`, behind what waits already; a lost connection ends this link, not the caller."""
        if self.closed or self.finishing is not None:
            return
        if self.outbox:
            self.outbox.put(self, data, self.host.loop.now)
            return
        taken = 0
        try:
            taken = self.sock.send(data, _NO_WAIT)
        except BlockingIOError:
            pass
        except OSError as error:
            self.fail(error)
            return
        self.sent += taken
        if taken < len(data):
            self._watch(self._mask | WRITE)
            self.outbox.put(self, memoryview(data)[taken:], self.host.loop.now)
            self.schedule()

    def send_connection(self) -> None:
        """Write what the connection has to send."""
        if self.connection is not None:
            data = self.connection.data_to_send()
            if data:
                self.write(data)

    def _flush(self) -> None:
        if self.outbox:
            self.sent += self.outbox.write_to(self, self.host.loop.now)
        if not self.outbox:
            self._watch(self._mask & ~WRITE)
            if self.finishing is not None:
                self._half_close() if self._mask & READ else self.close(self.finishing)
                return
        if self.finishing is None and len(self.outbox) <= self.host.budget.low_water:
            self.handler.drained(self)

    # Time.

    def schedule(self) -> None:
        """Arrange to be called when the next thing is due."""
        when = self.timeout
        if self.finishing is None and self.connection is not None:
            when = min(when, self.connection.next_deadline(), self.doze_at)
        if self.outbox:
            when = min(when, self.outbox.moved_at + self.host.stall)
        if self.dozing:
            when = math.ceil(when / DOZE_TICK) * DOZE_TICK if when < math.inf else when
        if when == math.inf:
            self.host.loop.deadlines.cancel(self)
        else:
            self.host.loop.deadlines.schedule(self, when)

    def _check_time(self) -> None:
        now = self.host.loop.now
        if now >= self.timeout:
            if self._must_linger(now):
                self._linger(now)
            else:
                self.close(self.timeout_reason)
            return
        if self.outbox and now - self.outbox.moved_at >= self.host.stall:
            self.close(CloseReason.STALLED)
            return
        if self.finishing is None and self.connection is not None:
            if not self._mask & READ:
                self.connection.channel.peer_is_heard(now)
            self.connection.handle_time(now)
            self.send_connection()
            if now >= self.doze_at and not self.closed:
                self.doze_at = math.inf
                self.handler.quiet(self)
        if not self.closed:
            self.schedule()

    # The end.

    def watch(self) -> None:
        """Begin to be called by the loop."""
        self._watch(READ)

    def doze(self) -> None:
        """Be looked at once a second only, until `rouse`."""
        if not self.dozing and self._mask == READ:
            self.host.loop.doze(self.sock, self)
            self.dozing = True

    def rouse(self) -> None:
        """Be called at once again, and look now."""
        if self.dozing:
            self.host.loop.rouse(self.sock)
            self.dozing = False
            self.host.loop.register(self.sock, self._mask, self)
            self.on_ready(READ)

    def unwatch(self) -> None:
        """Give the socket to somebody else for a while."""
        self._watch(0)
        self.host.loop.deadlines.cancel(self)

    def finish(self, reason: CloseReason) -> None:
        """Deliver what is queued, then close: the peer gets every byte before the end."""
        if self.closed or self.finishing is not None:
            return
        if self.remote is not None:
            self.remote.finish(self, reason)
            return
        self.finishing = reason
        self.inbox.forget(self)
        # What the peer still sends is read and dropped: closing a socket with unread bytes
        # in it would reset the connection and could cost the peer our last words.
        self._watch(self._mask | READ)
        if not self.outbox:
            self._half_close()
        else:
            self.timeout = math.inf
            self.schedule()

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the link now."""
        if self.closed:
            return
        self.closed = True
        if self.remote is not None:
            self.remote.close(self, reason)
        self._let_go()
        self.host.link_closed(self, self.finishing or reason, detail)
        self.partner = None

    def detach(self, remote: Remote) -> None:
        """Let `remote` serve the connection from now on; here only its account is left."""
        self._let_go()
        self.partner = None
        self.remote = remote

    def _let_go(self) -> None:
        self.unwatch()
        self.inbox.forget(self)
        self.host.forget(self)
        self.outbox.forget(self)
        self.sock.close()
        self.connection = None

    def _half_close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.fail(error)
            return
        self.outbox.moved_at = self.host.loop.now
        self._linger(self.host.loop.now)

    def _linger(self, now: float) -> None:
        self.timeout = now + LINGER_TIMEOUT
        self.schedule()

    def _must_linger(self, now: float) -> bool:
        # "What it had sent is still delivered" (7), and a closed socket answers who still speaks by a reset.
        paused = now - self.outbox.moved_at
        return self.finishing is not None and paused < self.host.stall and is_on_its_way(self.sock)

    def _discard(self) -> None:
        count = self.sock.recv_into(self.host.shared, 0, _NO_WAIT)
        if not count:
            if not self.outbox:
                self.close(CloseReason.PEER_CLOSED)
            else:
                # Half-closed by the peer, which may still read: only the writing is left to do.
                self._watch(self._mask & ~READ)

    def _watch(self, mask: int) -> None:
        if mask == self._mask:
            return
        loop = self.host.loop
        if self.dozing:
            loop.rouse(self.sock)
            self.dozing = False
            self._mask = 0
            if not mask:
                return
        if not self._mask:
            loop.register(self.sock, mask, self)
        elif not mask:
            loop.unregister(self.sock)
        else:
            loop.modify(self.sock, mask, self)
        self._mask = mask
