"""Apply access rules: refuse connections, and close those that changed rules deny."""

from __future__ import annotations

from typing import Optional

from offset_common.policy.access import AccessRules
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.lifecycle import State
from offset_common.wire.messages import InitRole

# A connection in its handshake is checked afterwards, as the pool may have it; the others are already ending.
NOT_CHECKED = (State.HANDSHAKE, State.FLUSHING, State.LINGERING, State.CLOSED)


class AccessControl:
    """The access rules of a relay, and the roles of connections that they apply to.

    Args:
        rules: the first rules.
    """

    def __init__(self, rules: AccessRules) -> None:
        self._rules = rules
        self._roles: dict[SocketConnection, InitRole] = {}
        self.finished = 0  # connections that the current rules have ended

    def name_of(self, key: bytes) -> Optional[str]:
        """Return the name that the rules give a key, or None."""
        return self._rules.name_of(key)

    def denies_address(self, host: str) -> bool:
        """Return whether an address may not connect."""
        return host in self._rules.denied_networks

    def denies_peer(self, connection: SocketConnection) -> bool:
        """Return whether the rules deny everything to a connection whose key is proven."""
        return connection.key in self._rules.denied_keys or self.denies_address(connection.address.host)

    def record_role(self, connection: SocketConnection, role: InitRole) -> bool:
        """Remember the role that a connection asks for; return whether the rules allow it."""
        self._roles[connection] = role
        return self._allows(connection, role)

    def forget(self, connection: SocketConnection) -> None:
        """Forget a connection that ended."""
        self._roles.pop(connection, None)

    def change_rules(self, rules: AccessRules) -> None:
        """Replace the rules; call `finish_denied` with every connection afterwards."""
        self._rules = rules
        self.finished = 0

    def finish_denied(self, connection: SocketConnection) -> None:
        """Finish a connection if the rules now deny it."""
        if connection.session.state not in NOT_CHECKED and self._denies(connection):
            self.finished += 1
            connection.finish(CloseReason.DENIED)

    def _denies(self, connection: SocketConnection) -> bool:
        role = self._roles.get(connection)
        return self.denies_peer(connection) or (role is not None and not self._allows(connection, role))

    def _allows(self, connection: SocketConnection, role: InitRole) -> bool:
        if role is InitRole.CONNECT:
            return self._rules.may_connect(connection.key)
        return self._rules.may_listen(connection.key)
