"""Whether the rest of a partial frame may be read.

    the rest of a frame ...                     is read
    ------------------------------------------  ---------------------------------------------------------
    of up to 4 KiB (SMALL_READ)                 at once
    for which the buffer pool has space         at once, to its end: `reserve_rest` has reserved the space
    without space, of less than 128 KiB         in one turn, when all of it is in the system's buffer
    without space, otherwise                    when the pool has space: `pause_until_space`

In the third case the connection sets SO_RCVLOWAT, so that its socket counts as readable only then.
"""

from __future__ import annotations

from typing import Optional

from offset_common.relay.connection import SocketConnection
from offset_common.relay.input_buffer import OWN_BUFFER_FROM


def reserve_rest(connection: SocketConnection, sink: Optional[SocketConnection] = None) -> bool:
    """Reserve space for the rest of a partial frame; return False if there is none.

    Args:
        connection: it has received the start of the frame.
        sink: the connection that the frame will be sent to, which needs the space too; or None.
    """
    size = connection.input.needs_reservation()
    if size:
        if _without_space(connection, sink, size) is not None:
            return False
        reserve_unchecked(connection)
    return True


def pause_until_space(connection: SocketConnection, sink: Optional[SocketConnection] = None) -> None:
    """Pause reading until there is space for the rest, here and at `sink`; call this while there is none."""
    size = connection.input.needs_reservation()
    holder = _without_space(connection, sink, size)
    assert holder is not None
    connection.wait_for_space(holder, size)


def rest_has_arrived(connection: SocketConnection, sink: Optional[SocketConnection] = None) -> bool:
    """Return whether the rest, for which there is no space, has arrived; if not, wait for it, or for space.

    It also counts as arrived if the peer has closed, so that the next reads find the end.
    """
    missing = connection.input.needs_reservation()
    if connection.input.frame_size() >= OWN_BUFFER_FROM:
        pause_until_space(connection, sink)
        return False
    if connection.bytes_awaited == 1:
        connection.await_bytes(missing)  # even if they have arrived: this makes its next turn a busy one
        return False
    if connection.count_unread() >= missing or connection.peer_has_closed():
        return True
    # A system that is short of memory reports a socket as readable too early: check again in a second.
    connection.poll_coarsely()
    if not connection.polled_coarsely:  # the coarse poll does not watch for output
        pause_until_space(connection, sink)
    return False


def reserve_unchecked(connection: SocketConnection) -> None:
    """Reserve space for the rest without asking the pool; the next read gets what has arrived of it."""
    connection.await_bytes(1)
    connection.poll_normally()
    connection.input.reserve_frame()


def _without_space(
    connection: SocketConnection, sink: Optional[SocketConnection], size: int
) -> Optional[SocketConnection]:
    """Return the connection whose account has no space for `size` more bytes, or None if both have."""
    for each in (connection, sink):
        if each is not None and not each.account.fits(size, connection.account):
            return each
    return None
