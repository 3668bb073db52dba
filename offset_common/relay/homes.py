"""The other hosts of a relay. The class here knows none; the one in offset_common/fleet does.

The *home* of a key is the host where it listens. A relay calls its homes only in the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Optional

from offset_common.relay.connection import SocketConnection
from offset_common.relay.sessions.pending_connect import PendingConnect
from offset_common.wire.messages import InitRole


class Homes:
    """Knows no other host: every listener is here."""

    @property
    def busy(self) -> bool:
        """Whether connections to other hosts are open."""
        return False

    def view(self) -> Optional[FleetView]:
        """Return the state of the fleet, or None without one."""
        return None

    def claim(self, key: bytes) -> bool:
        """Claim `key`, which listens here; return whether connects may find it only after `finish_claim`."""
        return False

    def release(self, key: bytes) -> None:
        """Release the claim of `key`: its listener here has ended."""

    def forward(self, connection: SocketConnection, role: InitRole, other: bytes) -> bool:
        """Take over a connect or accept that nothing here matches; return False if there is no other host.

        Args:
            connection: its peer has asked for the role.
            role: to connect or to accept.
            other: the key at the other end.
        """
        return False

    def forward_pending(self, pending: PendingConnect, target: bytes) -> None:
        """Take over a connect that has waited here for `target`, which may listen at another host now.

        Args:
            pending: the connect.
            target: the key that it connects to.
        """
        raise NotImplementedError

    def before_join(self, connect: SocketConnection, accept: SocketConnection) -> None:
        """Note that a tunnel between two connections is about to be made; this may close one of them."""

    def leave(self) -> None:
        """Note that the relay accepts no more connections, and is about to stop."""

    def close(self) -> None:
        """Stop: the relay has closed all connections."""


class FleetView(NamedTuple):
    """A fleet, as one host sees it, for the status page.

    Args:
        name: the name of this host.
        address: where the others reach this host.
        directory: "present", "away" or "refuses entries".
        listeners: the number of listeners of this host.
        unclaimed: how many of these the directory may not have.
        links: open connections with other hosts, besides those of peers.
        hosts: the other hosts.
    """

    name: str
    address: str
    directory: str
    listeners: int
    unclaimed: int
    links: int
    hosts: Sequence[HostView]


class HostView(NamedTuple):
    """Another host, as this one sees it.

    Args:
        name: its name, for people.
        address: where other hosts reach it.
        alive: whether it is in the directory.
        forwarded_to: connects and accepts that were joined there, since startup.
        forwarded_from: connects and accepts that came from there, since startup.
        received: bytes that it sent on connections that this host opened.
        sent: bytes sent to it on the same connections.
    """

    name: str
    address: str
    alive: bool
    forwarded_to: int
    forwarded_from: int
    received: int
    sent: int
