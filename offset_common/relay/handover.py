"""A joined pair of connections on its way from the front process to a worker.

One datagram of a Unix socket: a line of JSON, then the bytes that were read and not used, and those
that wait to be written, of both ends; the two sockets come with it as descriptors (SCM_RIGHTS). The
keys in it never leave the machine's memory.
"""

from __future__ import annotations

import array
import json
import socket
from typing import Any, NamedTuple, Optional

from offset_common.channel.connection import Connection
from offset_common.relay.link import Link

MAX_DATAGRAM = 160 * 1024  # bytes: what a Unix socket's usual buffer takes at once


class End(NamedTuple):
    """One end of a tunnel between two processes.

    Args:
        number: what both processes know it by.
        state: of the connection (`Connection.export_state`).
        unread: bytes that came and are not processed.
        queued: bytes that the peer did not take yet.
    """

    number: int
    state: dict[str, Any]
    unread: bytes
    queued: bytes


def end_of(link: Link, number: int) -> End:
    """Return what another process needs of `link`; what the connection has to send is in `queued`.

    Raises:
        LocalProtocolError: the connection cannot move now.
    """
    assert link.connection is not None
    state = link.connection.export_state()
    return End(number, state, link.inbox.content(), link.outbox.content())


def encode_pair(connect: End, accept: End) -> Optional[bytes]:
    """Return the datagram, or None where so much waits that it does not fit."""
    head = json.dumps(
        [[end.number, end.state, len(end.unread), len(end.queued)] for end in (connect, accept)]
    ).encode()
    parts = [head, b"\n", connect.unread, connect.queued, accept.unread, accept.queued]
    datagram = b"".join(parts)
    return datagram if len(datagram) <= MAX_DATAGRAM else None


def decode_pair(datagram: bytes) -> list[End]:
    """Return both ends, the connect's first."""
    head, _, rest = datagram.partition(b"\n")
    ends: list[End] = []
    at = 0
    for number, state, unread, queued in json.loads(head):
        middle, end = at + unread, at + unread + queued
        ends.append(End(number, state, rest[at:middle], rest[middle:end]))
        at = end
    return ends


def connection_of(end: End) -> Connection:
    """Return the connection where the other process left it."""
    return Connection.import_state(end.state)


def send_with_sockets(channel: socket.socket, datagram: bytes, descriptors: list[int]) -> None:
    """Send a datagram and descriptors.

    Raises:
        OSError: the other side is gone, or too busy to take it now.
    """
    rights = array.array("i", descriptors)
    channel.sendmsg([datagram], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])


def receive_with_sockets(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Receive a datagram, empty at the end, and the descriptors that came with it.

    Raises:
        BlockingIOError: nothing came.
    """
    descriptors = array.array("i")
    datagram, ancillary, _, _ = channel.recvmsg(MAX_DATAGRAM, socket.CMSG_SPACE(2 * descriptors.itemsize))
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return datagram, list(descriptors)
