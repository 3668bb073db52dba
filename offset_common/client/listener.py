"""A listener: receives the connects to its key, and accepts or rejects them.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import time
from typing import Optional

from offset_common.channel.secure_channel import Observer
from offset_common.client.arguments import check_public_key
from offset_common.client.dialing import Dialing, dial
from offset_common.client.driver import Driver
from offset_common.client.handle import Handle
from offset_common.client.layers import Layers
from offset_common.client.tunnel import Tunnel, accept
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.errors import ConnectionLost, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole, RejectConnection


class Incoming:
    """A pending connect from another node. The relay drops it after 32 s without an answer.

    Args:
        listener: the listener that received it.
        public_key: 32 bytes, the other node's key, which the relay has verified.
    """

    def __init__(self, listener: Listener, public_key: bytes) -> None:
        self._listener = listener
        self.public_key = public_key

    def accept(
        self,
        *,
        end_to_end: bool = False,
        timeout: float = HANDSHAKE_TIMEOUT,
        observer: Optional[Observer] = None,
    ) -> Tunnel:
        """Accept the connect on a new connection to the relay; see the function `accept`."""
        listener = self._listener
        return accept(
            listener.relay,
            listener.identity,
            self.public_key,
            end_to_end=end_to_end,
            timeout=timeout,
            observer=observer,
        )

    def reject(self) -> None:
        """Reject the connect.

        Raises:
            ConnectionEnded: the listener was closed, and with it all pending connects.
        """
        self._listener.reject(self.public_key)

    def __repr__(self) -> str:
        return f"<Incoming from {encode_key(self.public_key)}>"


class Listener(Handle[Incoming]):
    """A connection on which the relay announces connects; created by `listen`.

    Iterating yields each Incoming until `close`. After `close`, the relay closes all pending connects,
    but existing tunnels stay open. An accept may then reach the relay too late; data from the tunnel, or
    an end-to-end handshake, proves that it was in time.

    Args:
        relay: the ticket of the relay.
        identity: this node's identity; the listener receives connects to its key.
        driver: runs the connection.
    """

    def __init__(self, relay: RelayTicket, identity: Identity, driver: Driver) -> None:
        super().__init__(driver)
        self.relay = relay
        self.identity = identity

    def receive(self, timeout: Optional[float] = None) -> Incoming:
        """Return the next connect.

        Args:
            timeout: seconds to wait, or None to wait forever.

        Raises:
            TimeoutError: no connect arrived in time.
            ConnectionEnded: the listener was closed; ConnectionLost if the relay closed it.
            PeerError: the relay broke the protocol.
        """
        message = self._driver.receive(timeout)
        try:
            return Incoming(self, IncomingConnection.decode(message).public_key)
        except PeerError:
            self._driver.abort()
            raise

    def reject(self, public_key: bytes) -> None:
        """Reject the pending connect of a node; do nothing if there is none.

        Args:
            public_key: 32 bytes, the other node's key.

        Raises:
            ConnectionEnded: the listener was closed.
            TypeError, ValueError: the argument is not a public key.
        """
        check_public_key("public_key", public_key)
        self._driver.send(RejectConnection(public_key).encode(), None)

    def __repr__(self) -> str:
        return f"<Listener for {encode_key(self.identity.public_key)} at {self.relay.address}>"


def listen(
    ticket: RelayTicket,
    identity: Identity,
    *,
    timeout: float = HANDSHAKE_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Listener:
    """Listen for connects to this node's key. The relay closes an older listener for the same key.

    Args:
        ticket: the relay's ticket.
        identity: this node's identity.
        timeout: seconds to connect to the relay.
        observer: called in the connection's thread with what passes on each layer, or None.

    Raises:
        RelayUnreachable, WrongRelay: the connection to the relay failed.
        TypeError: an argument has the wrong type.

    Source: section 7 of docs/protocol.md.
    """
    return start_listener(dial(ticket, identity, timeout, observer))


def start_listener(dialing: Dialing) -> Listener:
    """Turn an authenticated connection into a listener: the last step of `listen`.

    Args:
        dialing: all its steps are done; the listener now owns its socket.
    """
    now = time.monotonic()
    dialing.connection.send(InitConnection(InitRole.LISTEN).encode(), now)
    driver = Driver(
        dialing.sock,
        Layers(dialing.connection, None, now),
        "offset listener",
        ConnectionLost(
            "the listener was closed: the relay is stopping, a proxy or router in between closes idle"
            " connections, or another program listens with the same key"
        ),
    )
    return Listener(dialing.ticket, dialing.identity, driver)
