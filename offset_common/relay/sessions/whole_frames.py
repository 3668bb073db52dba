"""Frames that pass without space in the buffer pool.

The rest of such a frame stays in the system's buffer until all of it is there (SO_RCVLOWAT). Then it is read
and handled in one turn.
"""

from __future__ import annotations

from typing import Optional

from offset_common.relay.connection import SocketConnection
from offset_common.relay.input_buffer import OWN_BUFFER_FROM


def frame_has_arrived(connection: SocketConnection, sink: Optional[SocketConnection] = None) -> bool:
    """Return whether the rest of a partial frame, for which there is no space, has arrived; if not, wait.

    It also counts as arrived if the peer has closed, so that the next reads find the end.

    A frame that the system's buffer may not hold waits for space instead, here and at the `sink` that it will
    be sent to.
    """
    size = connection.input.frame_size()
    missing = size - connection.input.kept
    if size >= OWN_BUFFER_FROM:
        connection.reserve_frame(sink)
        return False
    waited = connection.bytes_awaited > 1  # but something else made the socket readable
    if connection.count_unread() >= missing or (waited and connection.peer_has_closed()):
        return True
    if waited:
        connection.reserve_frame(sink)
    else:
        connection.await_bytes(missing)
    return False


def take_frame(connection: SocketConnection) -> None:
    """Reserve space for a frame that has arrived, until the turn ends: the next read gets all of it."""
    connection.await_bytes(1)
    connection.input.reserve_frame()
