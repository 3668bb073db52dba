"""A tunnel: messages to and from another node, through a relay.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import time
from typing import Optional, Union

from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.channel.secure_channel import Observer
from offset_common.client.dialing import Dialing, Step, dial
from offset_common.client.driver import Driver
from offset_common.client.handle import Handle
from offset_common.client.layers import Layers, observer_end_to_end
from offset_common.constants import HANDSHAKE_TIMEOUT, WAITING_CONNECT_TIMEOUT
from offset_common.errors import ConnectError, ConnectionEnded, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import InitConnection, InitRole

Buffer = Union[bytes, bytearray, memoryview]


class Tunnel(Handle[bytes]):
    """A connection with another node; created by `connect`, `accept` or `Incoming.accept`.

    Iterating yields each message until the tunnel is closed.

    Args:
        relay: the ticket of the relay.
        peer_public_key: 32 bytes, the other node's. An end-to-end handshake verifies it; without one,
            only the relay did.
        driver: runs the connection.
    """

    def __init__(self, relay: RelayTicket, peer_public_key: bytes, driver: Driver) -> None:
        super().__init__(driver)
        self.relay = relay
        self.peer_public_key = peer_public_key

    def send(self, message: Buffer, timeout: Optional[float] = None) -> None:
        """Queue one message; wait while the queue is full because the other node reads slowly.

        Args:
            message: at most 1 MiB.
            timeout: seconds to wait, or None to wait forever.

        Raises:
            LocalProtocolError: the message is too large.
            TimeoutError: the queue stayed full; the message is not sent.
            ConnectionEnded: the tunnel was closed.
            PeerError: the relay or the other node broke the protocol.
        """
        self._driver.send(bytes(memoryview(message)), timeout)

    def receive(self, timeout: Optional[float] = None) -> bytes:
        """Return the next message, as it was sent.

        Args:
            timeout: seconds to wait, or None to wait forever.

        Raises:
            TimeoutError: no message arrived in time; the tunnel stays open.
            ConnectionEnded: the tunnel was closed; ConnectionLost if messages may be missing.
            PeerError: the relay or the other node broke the protocol.
        """
        return self._driver.receive(timeout)

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

    The relay does not announce the accept. Without `end_to_end` this function returns at once, messages
    can be sent, and `Tunnel.receive` raises a ConnectError if the connect is not accepted. With
    `end_to_end` it returns after the other node has accepted the connect and proven its key.

    Args:
        ticket: the relay's.
        identity: this node's.
        peer_public_key: 32 bytes, the other node's.
        end_to_end: encrypt the messages between the two nodes as well; both must use this option.
        timeout: seconds to connect to the relay.
        accept_timeout: seconds for the accept and the end-to-end handshake.
        observer: called in the connection's thread with what passes on each layer, or None.

    Raises:
        ConnectError: a step failed.

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
    """Accept a pending connect that a listener received.

    Args:
        ticket: the relay's.
        identity: the listener's.
        source_public_key: 32 bytes, of the node that connects.
        end_to_end: encrypt the messages between the two nodes as well; both must use this option.
        timeout: seconds to connect to the relay, and again for the end-to-end handshake.
        observer: called in the connection's thread with what passes on each layer, or None.

    Raises:
        ConnectError: a step failed.

    Source: section 7 of docs/protocol.md.
    """
    init = InitConnection(InitRole.ACCEPT, source_public_key)
    dialing = dial(ticket, identity, timeout, observer)
    return start_tunnel(dialing, init, end_to_end=end_to_end, timeout=timeout)


def start_tunnel(dialing: Dialing, init: InitConnection, *, end_to_end: bool, timeout: float) -> Tunnel:
    """Turn an authenticated connection into a tunnel: the last step of `connect` and `accept`.

    Args:
        dialing: all its steps are done; the tunnel now owns its socket.
        init: a connect or an accept.
        end_to_end: encrypt the messages between the two nodes as well.
        timeout: seconds for the end-to-end handshake.

    Raises:
        ConnectError: the other node did not join or did not prove its key.
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
        ConnectionEnded("the other node or the relay closed the tunnel"),
        _not_joined(init.role, end_to_end),
    )
    if end_to_end:
        _wait_for_peer(driver, timeout)
    return Tunnel(dialing.ticket, init.public_key, driver)


def _not_joined(role: InitRole, end_to_end: bool) -> ConnectionEnded:
    start = "the relay closed the connection before anything arrived from the other node: "
    if role is InitRole.CONNECT:
        reason = "it does not listen here, rejected the connect, or did not accept it in time"
    else:
        reason = "its connect is no longer pending, or it closed the tunnel without a message"
        if not end_to_end:
            return ConnectionEnded(start + reason)  # an orderly end: a tunnel may have no messages
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
