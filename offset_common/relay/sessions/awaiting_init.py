"""A connection whose peer is authenticated and has not said what it wants.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Protocol

from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.relay.sessions.message_session import MessageSession
from offset_common.wire.messages import InitConnection, InitRole


class RoleRequests(Protocol):
    """Gives connections their roles."""

    def listen(self, connection: SocketConnection) -> None:
        """Make `connection` the listener of its key."""

    def connect(self, connection: SocketConnection, target: bytes) -> None:
        """Let `connection` wait for the listener of `target`."""

    def accept(self, connection: SocketConnection, source: bytes) -> None:
        """Join `connection` with a pending connect from `source`."""


class AwaitingInit(MessageSession):
    """Waits for the InitConnection, which decides the role.

    Args:
        connection: the connection.
        requests: gives it its role.
    """

    __slots__ = ("_requests",)

    state = State.AWAITING_INIT

    def __init__(self, connection: SocketConnection, requests: RoleRequests) -> None:
        super().__init__(connection)
        self._requests = requests

    def on_message(self, message: bytes) -> None:
        """Give the connection the role that its first message asks for."""
        init = InitConnection.decode(message)
        if init.role is InitRole.LISTEN:
            self._requests.listen(self.connection)
            return
        assert init.public_key is not None
        if init.role is InitRole.CONNECT:
            self._requests.connect(self.connection, init.public_key)
        else:
            self._requests.accept(self.connection, init.public_key)
