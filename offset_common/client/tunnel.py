"""A tunnel: byte strings to and from another node, through a relay.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Optional, Union

from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.channel.secure_channel import Observer
from offset_common.client.dialing import Dialing, Step, dial
from offset_common.client.driver import CLOSE_TIMEOUT, Driver, is_orderly
from offset_common.client.layers import Layers, observer_end_to_end
from offset_common.constants import HANDSHAKE_TIMEOUT, WAITING_CONNECT_TIMEOUT
from offset_common.errors import ConnectError, ConnectionEnded, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import InitConnection, InitRole

Buffer = Union[bytes, bytearray, memoryview]


class Tunnel:
    """A connection with another node; made by `connect`, `accept` or `Incoming.accept`.

    Args:
        relay: the ticket of the relay that it goes through.
        peer_public_key: 32 bytes, the other node's key: proven by that node itself where the tunnel is
            end to end, by the relay's word otherwise.
        driver: runs the connection.
    """

    def __init__(self, relay: RelayTicket, peer_public_key: bytes, driver: Driver) -> None:
        self.relay = relay
        self.peer_public_key = peer_public_key
        self._driver = driver

    def send(self, message: Buffer, timeout: Optional[float] = None) -> None:
        """Send one message; waits while the other node reads too slowly.

        Args:
            message: at most 1 MiB.
            timeout: seconds to wait at most, or None.

        Raises:
            LocalProtocolError: the message is too large.
            TimeoutError: there was no room in time; the message is not sent.
            ConnectionEnded: the tunnel is over.
            PeerError: it is over because the relay or the other node broke the protocol.
        """
        self._driver.send(bytes(memoryview(message)), timeout)

    def receive(self, timeout: Optional[float] = None) -> bytes:
        """Return the next message, as it was sent.

        Args:
            timeout: seconds to wait at most, or None.

        Raises:
            TimeoutError: none came in time; later ones can still be received.
            ConnectionEnded: the tunnel is over; ConnectionLost if messages may be missing.
            PeerError: it is over because the relay or the other node broke the protocol.
        """
        return self._driver.receive(timeout)

    def __iter__(self) -> Iterator[bytes]:
        """Give the messages until the tunnel ends in order; any other end raises what `receive` raises."""
        while True:
            try:
                message = self.receive()
            except ConnectionEnded as error:
                if is_orderly(error):
                    return
                raise
            yield message

    def close(self, timeout: float = CLOSE_TIMEOUT) -> None:
        """Deliver what was sent, then end the tunnel; what was not received yet is dropped.

        Args:
            timeout: seconds to wait for the delivery; after that it goes on without being waited for.
        """
        self._driver.close(timeout)

    def __enter__(self) -> Tunnel:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Tunnel to {encode_key(self.peer_public_key)} through {self.relay.address}>"


def connect(
    ticket: RelayTicket,
    identity: Identity,
    peer_public_key: bytes,
    *,
    end_to_end: bool = False,
    timeout: float = HANDSHAKE_TIMEOUT,
    accept_timeout: float = WAITING_CONNECT_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Tunnel:
    """Connect to the node that listens for a key.

    A relay does not tell when the other node accepts. Without `end_to_end` the tunnel can be used at
    once, and a connect that is not accepted shows when something is received. With it, this returns when
    the other node has accepted and proven its key.

    Args:
        ticket: of the relay.
        identity: who we are.
        peer_public_key: 32 bytes, of the node to connect to.
        end_to_end: let only the two nodes read the messages, not the relay; both must want it.
        timeout: seconds to reach the relay.
        accept_timeout: seconds for the other node to accept and prove itself, where `end_to_end`.
        observer: told of what passes on every layer, or None; called in the connection's thread.

    Raises:
        ConnectError: a step failed; its text is a sentence for a person.

    Source: section 7 of docs/protocol.md.
    """
    init = InitConnection(InitRole.CONNECT, peer_public_key)
    dialing = dial(ticket, identity, timeout, observer)
    return start_tunnel(dialing, init, end_to_end=end_to_end, timeout=accept_timeout)


def accept(
    ticket: RelayTicket,
    identity: Identity,
    source_public_key: bytes,
    *,
    end_to_end: bool = False,
    timeout: float = HANDSHAKE_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Tunnel:
    """Accept the waiting connect of a node, which a listener was told of.

    Args:
        ticket: of the relay.
        identity: who we are: the listener's.
        source_public_key: 32 bytes, of the node that connects.
        end_to_end: let only the two nodes read the messages, not the relay; both must want it.
        timeout: seconds to reach the relay, and again for the other node to prove itself.
        observer: told of what passes on every layer, or None; called in the connection's thread.

    Raises:
        ConnectError: a step failed; its text is a sentence for a person.

    Source: section 7 of docs/protocol.md.
    """
    init = InitConnection(InitRole.ACCEPT, source_public_key)
    dialing = dial(ticket, identity, timeout, observer)
    return start_tunnel(dialing, init, end_to_end=end_to_end, timeout=timeout)


def start_tunnel(dialing: Dialing, init: InitConnection, *, end_to_end: bool, timeout: float) -> Tunnel:
    """Make a proven connection a tunnel: the last step of `connect` and `accept`.

    Args:
        dialing: all its steps are done; the tunnel's from now on.
        init: a connect or an accept.
        end_to_end: let only the two nodes read the messages.
        timeout: seconds for the other node to prove itself, where `end_to_end`.

    Raises:
        ConnectError: the other node is not there, or is not the one.
    """
    assert init.public_key is not None
    now = time.monotonic()
    dialing.connection.send(init.encode(), now)
    channel = None
    if end_to_end:
        observer = observer_end_to_end(dialing.observer)
        channel = KeepaliveChannel(dialing.identity, now, init.public_key, observer=observer)
    driver = Driver(
        dialing.sock,
        Layers(dialing.connection, channel, now),
        "offset tunnel",
        ConnectionEnded("the other node, or the relay, ended the tunnel"),
        _never_met(init.role, end_to_end),
    )
    if end_to_end:
        _wait_for_peer(driver, timeout)
    return Tunnel(dialing.ticket, init.public_key, driver)


def _never_met(role: InitRole, end_to_end: bool) -> ConnectionEnded:
    start = "the relay ended the connection before anything came from the other node: "
    if role is InitRole.CONNECT:
        reason = "it does not listen here, or turned the connect away, or did not accept it in time"
    else:
        reason = "its connect waits no longer, or it ended without a word"
        if not end_to_end:
            return ConnectionEnded(start + reason)  # a tunnel without a message is one as well
    return ConnectError(Step.CONNECT, start + reason)


def _wait_for_peer(driver: Driver, timeout: float) -> None:
    try:
        ready = driver.wait_ready(timeout)
        if not ready:
            raise ConnectError(
                Step.END_TO_END, f"the other node did not prove its key end to end within {timeout:g} s"
            )
    except PeerError as error:
        raise ConnectError(Step.END_TO_END, f"the other node did not prove its key: {error}") from error
    except BaseException:
        driver.close(timeout=0)
        raise
