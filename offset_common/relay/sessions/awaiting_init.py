"""A connection whose peer is authenticated but has not asked for a role yet.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Callable

from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.wire.messages import InitConnection, InitRole


class AwaitingInit(MessageSession):
    """Waits for the InitConnection, which decides the role.

    Args:
        connection: the connection.
        listen: makes the connection the listener of its key.
        connect: lets it wait for the listener of a key.
        accept: joins it with a pending connect from a key.
    """

    __slots__ = ("_accept", "_connect", "_listen")

    state = State.AWAITING_INIT
    settled = False

    def __init__(
        self,
        connection: SocketConnection,
        listen: Callable[[SocketConnection], None],
        connect: Callable[[SocketConnection, bytes], None],
        accept: Callable[[SocketConnection, bytes], None],
    ) -> None:
        super().__init__(connection)
        self._listen = listen
        self._connect = connect
        self._accept = accept

    def on_message(self, message: bytes) -> None:
        """Give the connection the role that its first message asks for."""
        init = InitConnection.decode(message)
        if init.role is InitRole.LISTEN:
            self._listen(self.connection)
            return
        assert init.public_key is not None
        if init.role is InitRole.CONNECT:
            self._connect(self.connection, init.public_key)
        else:
            self._accept(self.connection, init.public_key)
