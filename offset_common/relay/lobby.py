"""From the listening socket to the proven peer: accept, the lobby, the handshake.

A socket that has sent nothing costs an entry in the selector and a deadline. Once something came,
the handshake pool has it; a peer that stops in the middle is back in the lobby. At a limit, what
has proven nothing yet gives way first, oldest first, then what is proven and has no role yet.
"""

from __future__ import annotations

import errno
import socket
from functools import partial
from typing import Callable, Optional

from offset_common.channel.connection import VERSION_FRAME
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.errors import HandshakeError, VersionError
from offset_common.relay.handshakes import HandshakeJob, HandshakePool, prepare_socket
from offset_common.relay.host import Host
from offset_common.relay.limits import ACCEPT_PAUSE, FREE_BUFFER_SIZE, Limits
from offset_common.relay.link import Link
from offset_common.relay.loop import READ
from offset_common.relay.origins import Address, Origins, origin_of, show_address
from offset_common.relay.reasons import CloseReason
from offset_common.wire.frames import OldPeerError

ACCEPTS_IN_ROUND = 64  # new connections taken before the established ones have their turn
SHORT_OF_RESOURCES = 60.0  # seconds with no more connections than the system had descriptors for

_OUT_OF_RESOURCES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class ListeningSocket:
    """One listening socket, as a member of the loop.

    Args:
        sock: bound and listening, non-blocking.
        lobby: where its connections go.
    """

    def __init__(self, sock: socket.socket, lobby: Lobby) -> None:
        self.sock = sock
        self._lobby = lobby
        self._loop = lobby.host.loop
        self._accepted = 0  # in the present second
        self._second = 0
        self._paused = False
        self._loop.register(sock, READ, self)

    def on_ready(self, mask: int) -> None:
        """Accept what waits, within the bounds of a round and a second."""
        second = int(self._loop.now)
        if second != self._second:
            self._second, self._accepted = second, 0
        for _ in range(ACCEPTS_IN_ROUND):
            if self._accepted >= self._lobby.limits.accepts_per_second:
                self._pause(second + 1.0)
                return
            try:
                sock, address = self.sock.accept()
            except OSError as error:
                # What else can go wrong (ECONNABORTED, ...) concerns that one connection.
                if error.errno in _OUT_OF_RESOURCES:
                    self._lobby.out_of_resources(error)
                    self._pause(self._loop.now + ACCEPT_PAUSE)
                return
            self._accepted += 1
            self._lobby.enter(sock, address)

    def on_deadline(self) -> None:
        """Accept again after a pause."""
        self._paused = False
        self._loop.register(self.sock, READ, self)

    def close(self) -> None:
        """Stop listening."""
        if not self._paused:
            self._loop.unregister(self.sock)
        self._loop.deadlines.cancel(self)
        self.sock.close()

    def _pause(self, until: float) -> None:
        self._paused = True
        self._loop.unregister(self.sock)
        self._loop.deadlines.schedule(self, until)


class Lobby:
    """Connections that have not proven who they are.

    Args:
        host: what links share.
        limits: for all, and for each address.
        admitted: called with each link whose peer is proven; its first bytes may have come already.
        refused: called for each connection that is closed before it is a link: address and reason.
        warn: called with a kind and a line for the operator.
    """

    role = "newcomer"

    def __init__(
        self,
        host: Host,
        limits: Limits,
        admitted: Callable[[Link], None],
        refused: Callable[[str, CloseReason], None],
        warn: Callable[[str, str], None],
    ) -> None:
        self.host = host
        self.limits = limits
        self.pool: Optional[HandshakePool] = None
        self.origins = Origins(limits)
        self.handshakes = 0  # completed
        self._short_until = 0.0  # the system refused something not long ago
        self._admitted = admitted
        self._refused = refused
        self._warn = warn
        host.drop_largest = self.drop_largest

    def enter(self, sock: socket.socket, address: Address) -> None:
        """Take a new connection, if limits allow or something gives way."""
        origin = origin_of(address)
        if self._short_until and self.host.loop.now >= self._short_until:
            self._short_until = 0.0
            self.origins.allow_all()
        reason = self.origins.reason_to_refuse(origin)
        if reason is not None:
            sock.close()
            self._refused(show_address(address), reason)
            return
        if not self.host.has_memory():
            sock.close()
            self._refused(show_address(address), CloseReason.NO_MEMORY)
            return
        for older in self.origins.in_the_way(origin):
            older.close(CloseReason.GAVE_WAY)
        prepare_socket(sock)
        link = Link(self.host, sock, show_address(address), origin, self)
        self.origins.enter(link)
        link.timeout = self.host.loop.now + HANDSHAKE_TIMEOUT
        link.timeout_reason = CloseReason.HANDSHAKE_TIMEOUT
        try:
            link.watch()
            link.schedule()
            link.write(VERSION_FRAME)  # "as soon as the TCP connection is up, without waiting" (2)
        except Exception as error:
            link.fail(error)

    def readable(self, link: Link) -> None:
        """Give a link whose peer said something to the handshake pool."""
        assert self.pool is not None
        link.unwatch()
        self.origins.busy(link)
        connection = link.connection
        link.connection = None
        self.pool.submit(HandshakeJob(link.sock, link, link.timeout, connection))

    def process(self, link: Link, data: memoryview) -> None:
        """Nothing is read here: what comes is the pool's."""

    def quiet(self, link: Link) -> None:
        """Nothing follows from that here."""

    def drained(self, link: Link) -> None:
        """Nothing waits for that here."""

    def job_done(self, job: HandshakeJob) -> None:
        """Take a link back from the pool; called in a pool thread."""
        self.host.loop.adopt(partial(self._take_back, job))

    def out_of_resources(self, error: OSError) -> None:
        """Make room after the system refused a descriptor or memory."""
        self._warn("resources", f"cannot accept for a moment: {error.strerror}")
        self.origins.allow_no_more()
        self._short_until = self.host.loop.now + SHORT_OF_RESOURCES
        oldest = self.origins.oldest_unproven()
        while oldest is not None:
            oldest.close(CloseReason.GAVE_WAY)
            oldest = self.origins.oldest_unproven() if self.origins.too_many else None

    def drop_largest(self) -> bool:
        """Close the link for which most is buffered; say whether there was one that is worth it."""
        largest = max(self.origins.all(), key=_buffered, default=None)
        if largest is None or _buffered(largest) < FREE_BUFFER_SIZE:
            return False
        largest.close(CloseReason.NO_MEMORY)
        return True

    def _take_back(self, job: HandshakeJob) -> None:
        link = job.owner
        assert isinstance(link, Link)
        self.origins.back(link, job.established)
        link.received += job.received
        link.sent += job.sent
        try:
            if job.error is not None:
                self._fail(link, job.error)
            elif job.ended:
                link.close(CloseReason.PEER_CLOSED)
            else:
                link.connection = job.connection
                if job.established:
                    self._prove(link)
                else:
                    link.watch()
                    link.schedule()
        except Exception as error:
            link.fail(error)

    def _prove(self, link: Link) -> None:
        assert link.connection is not None
        self.host.need_memory()
        self.handshakes += 1
        link.key = link.connection.peer_public_key
        reason, gives_way = self.origins.prove(link)
        if gives_way is not None:
            gives_way.close(CloseReason.GAVE_WAY)
        if reason is not None:
            link.close(reason)
            return
        link.inbox.put(link.connection.take_received())
        self._admitted(link)

    @staticmethod
    def _fail(link: Link, error: BaseException) -> None:
        if isinstance(error, OldPeerError):
            link.close(CloseReason.OLD_PEER)
        elif isinstance(error, VersionError):
            link.close(CloseReason.NOT_OFFSET, str(error))
        elif isinstance(error, HandshakeError):
            link.close(CloseReason.HANDSHAKE_FAILED, str(error))
        else:
            link.fail(error)


def _buffered(link: Link) -> int:
    return len(link.outbox) + len(link.inbox)
