"""A listener: receives connects for its key.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Callable

from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import IncomingConnection, RejectConnection

ANNOUNCEMENTS_IN_TURN = 64
MOST_QUEUED = 32 * 1024  # bytes of announcements that may be queued for a slow peer


class Listener(MessageSession):
    """Announces pending connects to the peer, and handles its rejections.

    For a slow peer, at most MOST_QUEUED bytes of announcements are queued here, and as many in the kernel.
    The others are sent when there is room, and only for connects that are still pending. Addresses
    take turns, so that one with thousands of connects does not delay those of others.

    Args:
        connection: the connection.
        reject: called with the key whose pending connect the peer rejects.
        has_pending: returns whether a connect waits for the listener of a key.
    """

    __slots__ = ("_has_pending", "_reject", "_since", "_unannounced")

    state = State.LISTENER

    def __init__(
        self,
        connection: SocketConnection,
        reject: Callable[[Listener, bytes], None],
        has_pending: Callable[[bytes], bool],
    ) -> None:
        super().__init__(connection)
        self._reject = reject
        self._has_pending = has_pending
        self._since = connection.loop.now
        # By address, those of one address in the order of arrival; the address whose turn it is comes first.
        self._unannounced: dict[str, dict[PendingConnect, None]] = {}
        connection.limit_unsent(MOST_QUEUED)

    def on_message(self, message: bytes) -> None:
        """Reject a pending connect, the only request that a listener may make."""
        self._reject(self, RejectConnection.decode(message).public_key)

    def is_newer_than(self, other: Listener, within: float) -> bool:
        """Return whether `other` connected first, and took its role at most `within` seconds later."""
        later = self.connection.started_at > other.connection.started_at
        return later and other._since - self._since <= within

    def announce(self, pending: Iterable[PendingConnect]) -> None:
        """Announce connects to the peer, now or when there is room."""
        for each in pending:
            self._unannounced.setdefault(each.connection.address.prefix, {})[each] = None
        self.connection.poll_normally()  # if the peer has closed, its pending connects are closed soon
        self._send_announcements()

    def withdraw(self, pending: PendingConnect) -> None:
        """Drop `pending` from the connects to announce."""
        address = pending.connection.address.prefix
        of_address = self._unannounced.get(address, {})
        of_address.pop(pending, None)
        if not of_address:
            self._unannounced.pop(address, None)

    def _send_announcements(self) -> None:
        connection = self.connection
        for _ in range(ANNOUNCEMENTS_IN_TURN):
            if connection.closed or not self._unannounced:
                return
            # If nothing is queued, send one anyway; its completion triggers the next attempt.
            output = connection.output
            if output.size and (output.size > MOST_QUEUED or output.room <= 0):
                break
            pending = self._take_next()
            connection.send_message(IncomingConnection(pending.connection.key).encode())
        connection.call_when_writable(self._send_announcements)

    def _take_next(self) -> PendingConnect:
        address = next(iter(self._unannounced))
        of_address = self._unannounced.pop(address)
        pending = next(iter(of_address))
        del of_address[pending]
        if of_address:
            self._unannounced[address] = of_address  # now the last one
        return pending

    @property
    def may_poll_coarsely(self) -> bool:  # type: ignore[override]
        """Whether no connect is pending: then the peer's messages may be noticed up to a second late."""
        return not self._has_pending(self.connection.key)
