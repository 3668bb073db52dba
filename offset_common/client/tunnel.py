"""A tunnel: messages to and from another node, through a relay.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import time
from functools import partial
from typing import IO, Any, Optional, Union

from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.channel.secure_channel import Observer
from offset_common.client.arguments import check_public_key, check_seconds
from offset_common.client.dialing import Dialing, Step, dial
from offset_common.client.driver import Driver
from offset_common.client.handle import Handle
from offset_common.client.layers import Layers, observer_end_to_end
from offset_common.client.stream import make_file
from offset_common.constants import HANDSHAKE_TIMEOUT, PENDING_CONNECT_TIMEOUT
from offset_common.errors import ConnectError, ConnectionEnded, ConnectRefused, NotAccepted, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.wire.messages import InitConnection, InitRole

Buffer = Union[bytes, bytearray, memoryview]
NOT_ACCEPTED_MARGIN = 2.0  # seconds; an end this close to the relay's time limit counts as its timeout


class Tunnel(Handle[bytes]):
    """A connection with another node; created by `connect`, `accept` or `Incoming.accept`.

    Iterating yields each message until the tunnel is closed.

    Args:
        relay: the ticket of the relay.
        peer_public_key: 32 bytes, the other node's key. An end-to-end handshake verifies it; without one,
            only the relay has verified it.
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
            TypeError: the message is not bytes.
            TimeoutError: the queue stayed full; the message is not sent.
            ConnectionEnded: the tunnel was closed.
            PeerError: the relay or the other node broke the protocol.
        """
        try:
            data = bytes(memoryview(message))
        except TypeError:
            raise TypeError(f"a message must be bytes, not {type(message).__name__}; encode text") from None
        self._driver.send(data, timeout)

    def makefile(
        self, mode: str = "rwb", *, encoding: str = "utf-8", timeout: Optional[float] = None
    ) -> IO[Any]:
        """Return a buffered file over the tunnel, as socket.makefile does; see the class TunnelStream.

        Args:
            mode: "r", "w" or "rw" for text, with a "b" at the end for bytes.
            encoding: the encoding of the text.
            timeout: seconds that each read or write waits, or None to wait forever.
        """
        return make_file(self, mode, encoding, timeout)

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
    accept_timeout: float = PENDING_CONNECT_TIMEOUT,
    observer: Optional[Observer] = None,
) -> Tunnel:
    """Connect to the node that listens for a key.

    The relay does not announce the accept. Without `end_to_end` this function returns at once, messages
    can be sent, and `Tunnel.receive` raises ConnectRefused or NotAccepted if nobody accepts the connect. With
    `end_to_end` it returns after the other node has accepted the connect and proven its key.

    Args:
        ticket: the relay's ticket.
        identity: this node's identity.
        peer_public_key: 32 bytes, the other node's key.
        end_to_end: also encrypt the messages between the two nodes; both must use this option.
        timeout: seconds to connect to the relay.
        accept_timeout: seconds for the accept and the end-to-end handshake.
        observer: called in the connection's thread with what passes on each layer, or None.

    Raises:
        RelayUnreachable, WrongRelay: the connection to the relay failed.
        ConnectRefused: nobody listens for the key, or the listener rejected the connect.
        NotAccepted: the other node did not accept the connect in time, or did not start an end-to-end
            handshake.
        ConnectError: the other node did not prove the key end to end.
        TypeError, ValueError: an argument has the wrong type, or is not a public key.

    Source: section 7 of docs/protocol.md.
    """
    check_public_key("peer_public_key", peer_public_key)
    check_seconds(accept_timeout)
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
        ticket: the relay's ticket.
        identity: the listener's identity.
        source_public_key: 32 bytes, the key of the node that connects.
        end_to_end: also encrypt the messages between the two nodes; both must use this option.
        timeout: seconds to connect to the relay, and again for the end-to-end handshake.
        observer: called in the connection's thread with what passes on each layer, or None.

    Raises:
        ConnectError: a step failed.
        TypeError, ValueError: an argument has the wrong type, or is not a public key.

    Source: section 7 of docs/protocol.md.
    """
    check_public_key("source_public_key", source_public_key)
    init = InitConnection(InitRole.ACCEPT, source_public_key)
    dialing = dial(ticket, identity, timeout, observer)
    return start_tunnel(dialing, init, end_to_end=end_to_end, timeout=timeout)


def start_tunnel(dialing: Dialing, init: InitConnection, *, end_to_end: bool, timeout: float) -> Tunnel:
    """Turn an authenticated connection into a tunnel: the last step of `connect` and `accept`.

    Args:
        dialing: all its steps are done; the tunnel now owns its socket.
        init: a connect or an accept.
        end_to_end: also encrypt the messages between the two nodes.
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
        partial(explain_not_joined, init.role, end_to_end),
    )
    if end_to_end:
        _wait_for_peer(driver, init.role, timeout)
    return Tunnel(dialing.ticket, init.public_key, driver)


def explain_not_joined(role: InitRole, end_to_end: bool, age: float) -> ConnectionEnded:
    """Return the error for a connection that the relay closed before anything arrived from the other node.

    Args:
        role: CONNECT or ACCEPT.
        end_to_end: whether the other node would have proven its key.
        age: seconds that the connection was open.
    """
    start = "the relay closed the connection before anything arrived from the other node: "
    silent = "" if end_to_end else ", or it closed the tunnel without a message"
    if role is InitRole.ACCEPT:
        reason = "its connect is no longer pending, or it closed the tunnel without a message"
        if end_to_end:
            return ConnectError(Step.CONNECT, start + reason)
        return ConnectionEnded(start + reason)  # an orderly end: a tunnel may have no messages
    # The relay soon closes a connect without a listener, and one that nobody accepts after a fixed time.
    if age >= PENDING_CONNECT_TIMEOUT - NOT_ACCEPTED_MARGIN:
        return NotAccepted(Step.CONNECT, f"{start}it did not accept the connect in time{silent}")
    return ConnectRefused(Step.CONNECT, f"{start}it does not listen here, or rejected the connect{silent}")


def _wait_for_peer(driver: Driver, role: InitRole, timeout: float) -> None:
    try:
        ready = driver.wait_ready(timeout)
        if not ready:
            reason = f"the other node did not prove its key end to end within {timeout:g} s"
            if role is InitRole.CONNECT:
                raise NotAccepted(Step.END_TO_END, f"{reason}; it may not have accepted the connect")
            raise ConnectError(Step.END_TO_END, f"{reason}; it may not use end-to-end encryption")
    except PeerError as error:
        raise ConnectError(Step.END_TO_END, f"the other node did not prove its key: {error}") from error
    except BaseException:
        driver.abort()
        raise
