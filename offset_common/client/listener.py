"""A listener: is told of the nodes that connect to its key, and accepts or rejects them.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Optional

from offset_common.channel.secure_channel import Observer
from offset_common.client.dialing import Dialing, dial
from offset_common.client.driver import CLOSE_TIMEOUT, Driver, is_orderly
from offset_common.client.layers import Layers
from offset_common.client.tunnel import Tunnel, accept
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.errors import ConnectionEnded, ConnectionLost, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole, RejectConnection


class Incoming:
    """A node that wants to connect; it waits 32 s for an answer.

    Args:
        listener: that was told of it.
        public_key: 32 bytes, of that node, proven to the relay.
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
        """Accept it, on a new connection to the relay; see the function `accept`."""
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
        """Turn it away.

        Raises:
            ConnectionEnded: the listener is over, and with it all that waited for it.
        """
        self._listener.reject(self.public_key)

    def __repr__(self) -> str:
        return f"<Incoming from {encode_key(self.public_key)}>"


class Listener:
    """A connection on which the relay tells who wants to connect; made by `listen`.

    Args:
        relay: the ticket of the relay.
        identity: for whose key it listens.
        driver: runs the connection.
    """

    def __init__(self, relay: RelayTicket, identity: Identity, driver: Driver) -> None:
        self.relay = relay
        self.identity = identity
        self._driver = driver

    def receive(self, timeout: Optional[float] = None) -> Incoming:
        """Return the next node that wants to connect.

        Args:
            timeout: seconds to wait at most, or None.

        Raises:
            TimeoutError: none came in time.
            ConnectionEnded: the listener was closed; ConnectionLost if it was not this side that did.
            PeerError: it is over because the relay broke the protocol.
        """
        message = self._driver.receive(timeout)
        try:
            return Incoming(self, IncomingConnection.decode(message).public_key)
        except PeerError:
            self._driver.close(timeout=0)
            raise

    def reject(self, public_key: bytes) -> None:
        """Turn a node away that waits; does nothing if it does not.

        Args:
            public_key: 32 bytes.

        Raises:
            ConnectionEnded: the listener is over.
        """
        self._driver.send(RejectConnection(public_key).encode(), None)

    def __iter__(self) -> Iterator[Incoming]:
        """Give the nodes that want to connect until `close`; any other end raises what `receive` raises."""
        while True:
            try:
                incoming = self.receive()
            except ConnectionEnded as error:
                if is_orderly(error):
                    return
                raise
            yield incoming

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Stop listening; who still waits is turned away by the relay, tunnels live on.

        An accept may reach the relay after this, and find that nobody waits: what came through its
        tunnel, or an accept end to end, shows that it was in time.

        Args:
            timeout: seconds to wait for the relay to take what was sent.
        """
        self._driver.close(timeout)

    def __enter__(self) -> Listener:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Listener for {encode_key(self.identity.public_key)} at {self.relay.address}>"


def listen(
    ticket: RelayTicket,
    identity: Identity,
    *,
    timeout: float = HANDSHAKE_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Listener:
    """Listen for nodes that connect to our key. An earlier listener for the same key is ended.

    Args:
        ticket: of the relay.
        identity: who we are.
        timeout: seconds to reach the relay.
        observer: told of what passes on every layer, or None; called in the connection's thread.

    Raises:
        ConnectError: a step failed; its text is a sentence for a person.

    Source: section 7 of docs/protocol.md.
    """
    return start_listener(dial(ticket, identity, timeout, observer))


def start_listener(dialing: Dialing) -> Listener:
    """Make a proven connection a listener: the last step of `listen`.

    Args:
        dialing: all its steps are done; the listener's from now on.
    """
    now = time.monotonic()
    dialing.connection.send(InitConnection(InitRole.LISTEN).encode(), now)
    driver = Driver(
        dialing.sock,
        Layers(dialing.connection, None, now),
        "offset listener",
        ConnectionLost(
            "the relay ended the listening: it stops, or another program listens for the same key"
        ),
    )
    return Listener(dialing.ticket, dialing.identity, driver)
