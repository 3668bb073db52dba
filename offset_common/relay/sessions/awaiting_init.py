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
        take_role: called with the connection, the role that its peer asks for, and the key at the other end,
            which is empty for a listener.
    """

    __slots__ = ("_take_role",)

    state = State.AWAITING_INIT
    settled = False

    def __init__(
        self,
        connection: SocketConnection,
        take_role: Callable[[SocketConnection, InitRole, bytes], None],
    ) -> None:
        super().__init__(connection)
        self._take_role = take_role

    def on_message(self, message: bytes) -> None:
        """Ask for the role in the peer's first message."""
        init = InitConnection.decode(message)
        self._take_role(self.connection, init.role, init.public_key or b"")
