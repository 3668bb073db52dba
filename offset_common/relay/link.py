"""One connection as the loop has it: a socket, the state machine on it, and what waits to be written.

    reading:  socket --> the host's shared buffer --> whole frames --> the link's handler
    writing:  connection.data_to_send() --> socket, at once; what it does not take --> the output queue

What a link does with its frames is its role's matter: `handler` (roles.py, forwarding.py).
"""

from __future__ import annotations

import math
import socket
from struct import Struct
from typing import Callable, Optional, Protocol, Union

from offset_common.channel.connection import Connection
from offset_common.constants import FRAME_LENGTH_SIZE
from offset_common.errors import PeerError, SilenceError
from offset_common.relay.buffers import Budget, SpareBuffers
from offset_common.relay.limits import FREE_BUFFER_SIZE, LINGER_TIMEOUT
from offset_common.relay.loop import READ, WRITE, Loop
from offset_common.relay.reasons import CloseReason

Buffer = Union[bytes, bytearray, memoryview]

SHARED_BUFFER_SIZE = 256 * 1024  # bytes: a frame that fits is cut from the shared buffer
_LENGTH = Struct(">Q")


class Handler(Protocol):
    """What a role does with the links that have it."""

    role: str

    def readable(self, link: Link) -> None:
        """Read, and act on what came."""

    def process(self, link: Link, data: memoryview) -> None:
        """Act on `data`, which came before."""

    def drained(self, link: Link) -> None:
        """The output queue of `link` is under its low-water mark again."""


class Host:
    """What all links of one process share.

    Args:
        loop: the loop that owns them.
        stall: seconds that a peer may leave what is queued for it unread.
        buffers: bytes that all links may buffer over what is free to each.
        link_closed: called once for each link, when it ends.
        report_bug: called with an unexpected exception, which ended the link.
    """

    def __init__(
        self,
        loop: Loop,
        stall: float,
        buffers: int,
        link_closed: Callable[[Link, CloseReason, str], None],
        report_bug: Callable[[Link, BaseException], None],
    ) -> None:
        self.loop = loop
        self.stall = stall
        self.budget: Budget[Link] = Budget(buffers)
        self.spare_buffers = SpareBuffers()
        self.shared = bytearray(SHARED_BUFFER_SIZE)
        self.shared_view = memoryview(self.shared)
        self.link_closed = link_closed
        self.report_bug = report_bug
        self.lingering = 0
        loop.after_round.append(self.after_round)
        loop.next_time.append(self._next_time)

    def after_round(self) -> None:
        """Let those read on for whom there is room again."""
        budget = self.budget
        if budget.somebody_waits:
            overdue = budget.overdue_holder(self.loop.now)
            if overdue is not None:
                overdue.close(CloseReason.LIMIT_BUFFERS)
            for link in budget.take_waiting():
                link.resume_reading()

    def _next_time(self) -> Optional[float]:
        return self.loop.now + 0.25 if self.budget.somebody_waits else None


class Link:
    """A connection from its acceptance to its end.

    Args:
        host: what it shares with the others.
        sock: non-blocking.
        address: of the peer, to show.
        handler: what to do with what comes.
    """

    __slots__ = (
        "_backlog",
        "_inbox",
        "_inbox_fill",
        "_inbox_size",
        "_mask",
        "_out",
        "_out_since",
        "_out_start",
        "address",
        "closed",
        "connection",
        "finishing",
        "handler",
        "host",
        "key",
        "note",
        "origin",
        "partner",
        "received",
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
        self.note: object = None  # what the role keeps about it
        self.received = 0  # bytes
        self.sent = 0
        self.started = host.loop.now
        self.closed = False
        self.finishing: Optional[CloseReason] = None  # set once only what is queued is still to be sent
        self.timeout = math.inf  # of the role, besides the connection's own deadlines
        self.timeout_reason = CloseReason.IDLE
        self._mask = 0
        self._backlog = False  # whole frames are kept
        self._inbox: Optional[bytearray] = None  # an incomplete frame with its length
        self._inbox_fill = 0
        self._inbox_size = 0  # bytes that are reserved for all of it; 0 while it is small
        self._out: Optional[bytearray] = None  # what the socket did not take
        self._out_start = 0
        self._out_since = 0.0  # when the socket took the last of it

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
        if self.closed:
            return
        if isinstance(error, SilenceError):
            self.close(CloseReason.IDLE)
        elif isinstance(error, PeerError):
            self.close(CloseReason.PROTOCOL_ERROR, str(error))
        elif isinstance(error, OSError):
            self.close(CloseReason.CONNECTION_LOST, error.strerror or "")
        else:
            self.host.report_bug(self, error)
            self.close(CloseReason.BUG)

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
            BlockingIOError: nothing came.
            OSError: the connection is lost.
        """
        host = self.host
        if self._backlog:
            return self.reread()
        if host.budget.exhausted:
            most = FREE_BUFFER_SIZE
        if self._inbox_size:
            assert self._inbox is not None
            view, fill, end = memoryview(self._inbox), self._inbox_fill, self._inbox_size
        else:
            view = host.shared_view
            fill = self._move_inbox()
            end = min(SHARED_BUFFER_SIZE, fill + most)
        try:
            count = self.sock.recv_into(view[fill:end])
        except BlockingIOError:
            if not self._inbox_size:
                self.keep(view[:fill], 0)
            raise
        if not count:
            return None
        self.received += count
        self._inbox_fill = fill + count
        return view[: fill + count]

    def reread(self) -> memoryview:
        """Return what `keep` kept, as `read` would, without reading the socket; `keep` must follow."""
        if self._inbox_size:
            assert self._inbox is not None
            return memoryview(self._inbox)[: self._inbox_fill]
        return self.host.shared_view[: self._move_inbox()]

    def keep(self, data: memoryview, start: int, reserve: bool = True, whole: bool = False) -> None:
        """Keep what is left from `start` of what `read` gave.

        Args:
            data: what `read` gave.
            start: where what is left begins.
            reserve: take room for all of a large frame now; while there is none, the link is not read.
            whole: there are whole frames in it; nothing more is read before they are processed.
        """
        self._backlog = whole
        if self._inbox_size:
            if not start:
                return  # still the same frame
            self._forget_inbox()
        if start == len(data):
            return
        self._inbox = inbox = bytearray(data[start:])
        self._inbox_fill = len(inbox)
        self.host.budget.used += len(inbox)
        if reserve and not whole:
            self._reserve_inbox()

    def process_kept_soon(self) -> None:
        """Let the handler go on with what is kept, in the next round."""
        self.host.loop.adopt(self._process_kept)

    def missing(self) -> int:
        """Return how many bytes are still to come of the incomplete frame, as far as that is known."""
        if self._inbox is None or self._inbox_fill < FRAME_LENGTH_SIZE:
            return 0
        return FRAME_LENGTH_SIZE + int(_LENGTH.unpack_from(self._inbox)[0]) - self._inbox_fill

    def unread(self) -> bytes:
        """Return the bytes of the frame that is not complete yet."""
        return b"" if self._inbox is None else bytes(self._inbox[: self._inbox_fill])

    def put_unread(self, data: bytes) -> None:
        """Let `data`, read by somebody else before, be what comes first."""
        if data:
            self._inbox = bytearray(data)
            self._inbox_fill = len(data)
            self.host.budget.used += len(data)

    def _move_inbox(self) -> int:
        if self._inbox is None:
            return 0
        fill = self._inbox_fill
        self.host.shared[:fill] = self._inbox
        self._forget_inbox()
        return fill

    def _reserve_inbox(self) -> None:
        missing = self.missing()
        size = self._inbox_fill + missing
        if not missing or size <= FREE_BUFFER_SIZE:
            return
        assert self._inbox is not None
        host = self.host
        host.budget.used -= self._inbox_fill
        if not host.budget.reserve(self, size, host.loop.now):
            host.budget.used += self._inbox_fill
            self.pause_reading()
            return
        begun = self._inbox
        self._inbox = host.spare_buffers.take(size)
        self._inbox[: len(begun)] = begun
        self._inbox_size = size

    def _forget_inbox(self) -> None:
        if self._inbox_size:
            assert self._inbox is not None
            self.host.budget.release(self, self._inbox_size)
            self.host.spare_buffers.give_back(self._inbox)
            self._inbox_size = 0
        elif self._inbox is not None:
            self.host.budget.used -= self._inbox_fill
        self._inbox = None

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
            if self._backlog:
                self.process_kept_soon()
            elif not self._inbox_size:
                self._reserve_inbox()
            if self.connection is not None:
                self.connection.channel.peer_is_heard(self.host.loop.now)

    # Writing.

    @property
    def queued(self) -> int:
        """The bytes that wait because the peer does not take them."""
        return 0 if self._out is None else len(self._out) - self._out_start

    def write(self, data: Buffer) -> None:
        """Write `data`, behind what waits already; a lost connection ends this link, not the caller."""
        if self.closed or self.finishing is not None:
            return
        taken = 0
        if self._out is None:
            try:
                taken = self.sock.send(data)
            except BlockingIOError:
                pass
            except OSError as error:
                self.fail(error)
                return
            self.sent += taken
            if taken == len(data):
                return
            self._out = bytearray()
            self._out_start = 0
            self._out_since = self.host.loop.now
            self._watch(self._mask | WRITE)
        self._out += memoryview(data)[taken:]
        self.host.budget.used += len(data) - taken

    def send_connection(self) -> None:
        """Write what the connection has to send."""
        if self.connection is not None:
            data = self.connection.data_to_send()
            if data:
                self.write(data)

    def _flush(self) -> None:
        out = self._out
        if out is None:
            self._watch(self._mask & ~WRITE)
            return
        with memoryview(out) as view:
            taken = self.sock.send(view[self._out_start :])
        self.sent += taken
        self.host.budget.used -= taken
        self._out_start += taken
        self._out_since = self.host.loop.now
        if self._out_start == len(out):
            self._out = None
            self._watch(self._mask & ~WRITE)
            if self.finishing is not None:
                self._half_close()
                return
        elif self._out_start > len(out) // 2:
            del out[: self._out_start]
            self._out_start = 0
        if self.finishing is None and self.queued <= self.host.budget.low_water:
            self.handler.drained(self)

    # Time.

    def schedule(self) -> None:
        """Arrange to be called when the next thing is due."""
        when = self.timeout
        if self.finishing is None and self.connection is not None:
            when = min(when, self.connection.next_deadline())
        if self._out is not None:
            when = min(when, self._out_since + self.host.stall)
        if when == math.inf:
            self.host.loop.deadlines.cancel(self)
        else:
            self.host.loop.deadlines.schedule(self, when)

    def _check_time(self) -> None:
        now = self.host.loop.now
        if now >= self.timeout:
            self.close(self.timeout_reason)
            return
        if self._out is not None and now - self._out_since >= self.host.stall:
            self.close(CloseReason.STALLED)
            return
        if self.finishing is None and self.connection is not None:
            if not self._mask & READ:
                self.connection.channel.peer_is_heard(now)
            self.connection.handle_time(now)
            self.send_connection()
        if not self.closed:
            self.schedule()

    # The end.

    def watch(self) -> None:
        """Begin to be called by the loop."""
        self._watch(READ)

    def unwatch(self) -> None:
        """Give the socket to somebody else for a while."""
        self._watch(0)
        self.host.loop.deadlines.cancel(self)

    def finish(self, reason: CloseReason) -> None:
        """Deliver what is queued, then close: the peer gets every byte before the end."""
        if self.closed or self.finishing is not None:
            return
        self.finishing = reason
        self._forget_inbox()
        # What the peer still sends is read and dropped: closing a socket with unread bytes
        # in it would reset the connection and could cost the peer our last words.
        self._watch(self._mask | READ)
        if self._out is None:
            self._half_close()
        else:
            self.timeout = math.inf
            self.schedule()

    def close(self, reason: CloseReason, detail: str = "") -> None:
        """End the link now."""
        if self.closed:
            return
        self.closed = True
        self.host.loop.deadlines.cancel(self)
        self._watch(0)
        self._forget_inbox()
        self.host.budget.forget(self)
        self.host.budget.used -= self.queued
        self._out = None
        self.sock.close()
        self.connection = None
        self.host.link_closed(self, self.finishing or reason, detail)
        self.partner = None

    def _half_close(self) -> None:
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self.fail(error)
            return
        self.timeout = self.host.loop.now + LINGER_TIMEOUT
        self.schedule()

    def _discard(self) -> None:
        count = self.sock.recv_into(self.host.shared)
        if not count:
            if self._out is None:
                self.close(CloseReason.PEER_CLOSED)
            else:
                # Half-closed by the peer, which may still read: only the writing is left to do.
                self._watch(self._mask & ~READ)

    def _watch(self, mask: int) -> None:
        if mask == self._mask:
            return
        loop = self.host.loop
        if not self._mask:
            loop.register(self.sock, mask, self)
        elif not mask:
            loop.unregister(self.sock)
        else:
            loop.modify(self.sock, mask, self)
        self._mask = mask
