"""How the two ends of a tunnel move from the front process to a worker.

One datagram of a Unix socket has the state, the unhandled input and the unread output of both ends, in JSON;
socket.send_fds sends the two sockets with it. The keys in it never leave the machine's memory.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple, Optional

from offset_common.relay.connection import SocketConnection

MAX_DATAGRAM = 160 * 1024  # bytes: what a Unix socket's usual buffer takes at once


class End(NamedTuple):
    """One end of a tunnel on its way.

    Args:
        number: identifies the connection in both processes.
        prefix: the prefix of the peer's address, for fairness.
        key: the peer's public key; if another host has verified it, the protocol state has that host's.
        state: the protocol state (`Connection.export_state`).
        input: bytes received but not handled.
        output: bytes that the peer has not read yet.
    """

    number: int
    prefix: str
    key: bytes
    state: dict[str, Any]
    input: bytes
    output: bytes


def end_of(connection: SocketConnection, number: int) -> End:
    """Return what another process needs to serve `connection`.

    Raises:
        LocalProtocolError: the connection cannot move now.
    """
    assert connection.protocol is not None
    return End(
        number,
        connection.address.prefix,
        connection.key,
        connection.protocol.export_state(),
        connection.input.content(),
        connection.output.content(),
    )


def encode_pair(connect: End, accept: End) -> Optional[bytes]:
    """Return the datagram, or None if too much is buffered for one."""
    values = [
        (end.number, end.prefix, end.key.hex(), end.state, end.input.hex(), end.output.hex())
        for end in (connect, accept)
    ]
    datagram = json.dumps(values).encode()
    return datagram if len(datagram) <= MAX_DATAGRAM else None


def decode_pair(datagram: bytes) -> list[End]:
    """Return both ends, the connect's first."""
    return [
        End(number, prefix, bytes.fromhex(key), state, bytes.fromhex(received), bytes.fromhex(unsent))
        for number, prefix, key, state, received, unsent in json.loads(datagram)
    ]
