"""One connection between a node and a relay, all layers together, as a state machine.

    from the socket --> receive_data(bytes), then next_event() until None --> events
    send(message), handle_time(now) --> data_to_send() --> to the socket

There are no sockets and no clock here: bytes and times are arguments.
"""

from __future__ import annotations

import os
from typing import Any, Optional

from offset_common.channel.events import Event, HandshakeCompleted
from offset_common.channel.handshake import RandomBytes
from offset_common.channel.keepalive import ChannelState, KeepaliveChannel
from offset_common.channel.other_protocols import is_other_protocol, name_protocol
from offset_common.channel.secure_channel import Observer, SecureChannel
from offset_common.constants import (
    FRAME_LENGTH_SIZE,
    MAX_FRAME_SIZE,
    MAX_HANDSHAKE_FRAME_SIZE,
    PROTOCOL_VERSION,
    VERSION_SIZE,
)
from offset_common.errors import LocalProtocolError, PeerError, VersionError
from offset_common.identity import Identity
from offset_common.wire.frames import Buffer, FrameReader, FrameTooLargeError, encode_frame

VERSION_FRAME = encode_frame(PROTOCOL_VERSION.to_bytes(VERSION_SIZE, "big"))
"""The frame that each side sends as soon as the TCP connection is up (section 2 of docs/protocol.md)."""


class Connection:
    """One side of a connection between a node and a relay.

    Args:
        identity: our own.
        now: seconds, by the same clock as every later `now`.
        expected_peer: the public key that the peer must have; None on the relay's side.
        random_bytes: the source of randomness.
        observer: called with every payload, and with the value of every layer, as they pass; or None.
        version_sent: whether the caller has sent `VERSION_FRAME` already.
    """

    __slots__ = ("_frames", "_observer", "_version_received", "channel")

    def __init__(
        self,
        identity: Identity,
        now: float,
        expected_peer: Optional[bytes] = None,
        random_bytes: RandomBytes = os.urandom,
        observer: Optional[Observer] = None,
        version_sent: bool = False,
    ) -> None:
        self.channel = KeepaliveChannel(identity, now, expected_peer, random_bytes, observer)
        self._frames = FrameReader(limit=VERSION_SIZE)
        self._version_received = False
        self._observer = observer
        if not version_sent:
            self.channel.outgoing.insert(0, VERSION_FRAME[-VERSION_SIZE:])

    def export_state(self) -> dict[str, Any]:
        """Return all that another process needs to continue this connection, in a form for JSON.

        Raises:
            LocalProtocolError: the handshake is not done, or our own rekey is not answered yet.
        """
        return self.channel.export_state()

    @classmethod
    def import_state(cls, state: dict[str, Any]) -> Connection:
        """Continue a connection where `export_state` of another process on this machine left it."""
        connection = cls.__new__(cls)
        connection.channel = KeepaliveChannel.import_state(state)
        connection._frames = FrameReader(limit=MAX_FRAME_SIZE)
        connection._version_received = True
        connection._observer = None
        return connection

    @property
    def established(self) -> bool:
        """Whether the handshake is done and the connection has not failed."""
        return self.channel.state is ChannelState.READY

    @property
    def secure_channel(self) -> SecureChannel:
        """The established secure channel.

        Raises:
            LocalProtocolError: the handshake is not done.
        """
        return self.channel.secure_channel

    @property
    def peer_public_key(self) -> bytes:
        """The proven key of the peer, 32 bytes.

        Raises:
            LocalProtocolError: the handshake is not done.
        """
        return self.channel.secure_channel.peer_public_key

    @property
    def received_size(self) -> int:
        """How many received bytes have not become events yet."""
        return len(self._frames)

    def receive_data(self, data: Buffer) -> None:
        """Take received bytes, cut in any way; `next_event` returns their meaning."""
        self._frames.receive_data(data)

    def take_received(self) -> bytes:
        """Return, and forget, the received bytes that have not become events yet."""
        return self._frames.take_all()

    def next_event(self, now: float) -> Optional[Event]:
        """Return the next event of the received bytes, or None until more come.

        Raises:
            PeerError: the peer broke the protocol; earlier events have been returned before.
            LocalProtocolError: the connection failed before.
        """
        if self.channel.state is ChannelState.FAILED:
            raise LocalProtocolError("the connection failed before")
        try:
            return self._next_event(now)
        except PeerError:
            self.channel.fail()
            raise

    def receive_frame(self, payload: bytes, now: float) -> Optional[Event]:
        """Take one whole payload; return its event, or None if it has none.

        Raises:
            PeerError: the peer broke the protocol.
            LocalProtocolError: the connection failed before.
        """
        if self._observer:
            self._observer("received", payload)
        if not self._version_received:
            self._receive_version(payload)
            return None
        event = self.channel.receive_payload(payload, now)
        if isinstance(event, HandshakeCompleted):
            self._frames.set_limit(MAX_FRAME_SIZE)
        return event

    def send(self, message: bytes, now: float, sparse: bool = False) -> None:
        """Send one message to the peer; `data_to_send` returns the bytes.

        Args:
            message: bytes of the layer above.
            now: seconds.
            sparse: whether to pack its zero bytes away.

        Raises:
            LocalProtocolError: the handshake is not done, or the connection failed.
        """
        self.channel.send(message, now, sparse)

    def data_to_send(self) -> bytes:
        """Return, once, the bytes to send now."""
        outgoing = self.channel.outgoing
        if not outgoing:
            return b""
        parts: list[bytes] = []
        for payload in outgoing:
            if self._observer:
                self._observer("sent", payload)
            parts.append(encode_frame(payload))
        outgoing.clear()
        return b"".join(parts)

    def next_deadline(self) -> float:
        """Return the earliest time, in seconds, at which `handle_time` has something to do."""
        return self.channel.next_deadline()

    def handle_time(self, now: float) -> None:
        """Send a keepAlive or start a rekey if it is time for that.

        Raises:
            SilenceError: nothing came from the peer for 32 s.
        """
        self.channel.handle_time(now)

    def _next_event(self, now: float) -> Optional[Event]:
        while True:
            try:
                payload = self._frames.next_frame()
            except FrameTooLargeError as error:
                if self._version_received:
                    raise
                raise _not_an_offset_peer(error.length.to_bytes(FRAME_LENGTH_SIZE, "big")) from None
            if payload is None:
                if not self._version_received:
                    self._check_partial_version()
                return None
            event = self.receive_frame(payload, now)
            if event is not None:
                return event

    def _check_partial_version(self) -> None:
        first = self._frames.peek(FRAME_LENGTH_SIZE)
        if len(first) < FRAME_LENGTH_SIZE and is_other_protocol(first):
            raise _not_an_offset_peer(first)

    def _receive_version(self, payload: bytes) -> None:
        # "A side that receives another length or another number closes the connection." (2)
        self._version_received = True
        if len(payload) != VERSION_SIZE:
            self.channel.fail()
            raise VersionError(f"a version of {len(payload)} bytes")
        version = int.from_bytes(payload, "big")
        if version != PROTOCOL_VERSION:
            self.channel.fail()
            raise VersionError(f"protocol version {version}, where only {PROTOCOL_VERSION} is spoken")
        self._frames.set_limit(MAX_HANDSHAKE_FRAME_SIZE)


def _not_an_offset_peer(first: bytes) -> VersionError:
    return VersionError(f"not an Offset peer: {name_protocol(first)}")
