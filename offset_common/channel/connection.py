"""One connection between a node and a relay, all layers together, as a state machine.

    from the socket --> receive_data(bytes), then next_event() until None --> events
    send(message), handle_time(now) --> data_to_send() --> to the socket

There are no sockets and no clock here: bytes and times are arguments. In a relay, most frames of a tunnel
bypass these methods (forwarder.py).
"""

from __future__ import annotations

import os
from typing import Any, Optional

from offset_common.channel.events import Event, HandshakeCompleted
from offset_common.channel.handshake import RandomBytes
from offset_common.channel.keepalive import ChannelState, KeepaliveChannel
from offset_common.channel.other_protocols import is_other_protocol, name_protocol
from offset_common.channel.secure_channel import Observer
from offset_common.constants import (
    FRAME_LENGTH_SIZE,
    MAX_FRAME_SIZE,
    MAX_HANDSHAKE_FRAME_SIZE,
    PROTOCOL_VERSION,
    VERSION_SIZE,
)
from offset_common.errors import LocalProtocolError, PeerError, VersionError
from offset_common.identity import Identity
from offset_common.wire.frames import Buffer, FrameReader, FrameTooLargeError, encode_frame, encode_length

VERSION_FRAME = encode_frame(PROTOCOL_VERSION.to_bytes(VERSION_SIZE, "big"))
"""The frame that each side sends as soon as the TCP connection is up (section 2 of docs/protocol.md)."""


class Connection(KeepaliveChannel):
    """One side of a connection between a node and a relay: a channel whose payloads travel in frames.

    Args:
        identity: this side's identity.
        now: seconds, by the same clock as every later `now`.
        expected_peer: the public key that the peer must have; None on the relay's side.
        random_bytes: the source of randomness.
        observer: called with every payload, and with the value of every layer, as they pass; or None.
        version_sent: whether the caller has already sent `VERSION_FRAME`.
    """

    __slots__ = ("_frames", "_version_received")

    def __init__(
        self,
        identity: Identity,
        now: float,
        expected_peer: Optional[bytes] = None,
        random_bytes: RandomBytes = os.urandom,
        observer: Optional[Observer] = None,
        version_sent: bool = False,
    ) -> None:
        super().__init__(identity, now, expected_peer, random_bytes, observer)
        self._frames = FrameReader(limit=VERSION_SIZE)
        self._version_received = False
        if not version_sent:
            self.outgoing.insert(0, VERSION_FRAME[-VERSION_SIZE:])

    @classmethod
    def import_state(cls, state: dict[str, Any], random_bytes: RandomBytes = os.urandom) -> Connection:
        """Continue a connection that another process of this machine exported."""
        connection = super().import_state(state, random_bytes)
        assert isinstance(connection, Connection)
        connection._frames = FrameReader(limit=MAX_FRAME_SIZE)
        connection._version_received = True
        return connection

    @property
    def received_size(self) -> int:
        """The number of received bytes that are not part of any returned event."""
        return len(self._frames)

    def receive_data(self, data: Buffer) -> None:
        """Add received bytes, in pieces of any size; `next_event` decodes them."""
        self._frames.receive_data(data)

    def needs_data(self) -> bool:
        """Return whether `next_event` can do nothing until more bytes are received."""
        try:
            return not self._frames.has_frame() and not self._is_other_protocol()
        except PeerError:
            return False

    def take_received(self) -> bytes:
        """Return and remove the received bytes that are not part of any returned event."""
        return self._frames.take_all()

    def next_event(self, now: float) -> Optional[Event]:
        """Return the next event in the received bytes, or None if more bytes are needed.

        Raises:
            PeerError: the peer broke the protocol; all earlier events have been returned.
            LocalProtocolError: the connection has already failed.
        """
        if self.state is ChannelState.FAILED:
            raise LocalProtocolError("the connection has already failed")
        try:
            while True:
                payload = self._next_payload()
                if payload is None:
                    return None
                event = self.receive_frame(payload, now)
                if event is not None:
                    return event
        except PeerError:
            self.fail()
            raise

    def receive_frame(self, payload: bytes, now: float) -> Optional[Event]:
        """Handle the payload of one frame; return its event, or None if it has none.

        Raises:
            PeerError: the peer broke the protocol.
            LocalProtocolError: the connection has already failed.
        """
        self._observe("received", payload)
        if not self._version_received:
            self._receive_version(payload)
            return None
        event = self.receive_payload(payload, now)
        if isinstance(event, HandshakeCompleted):
            self._frames.set_limit(MAX_FRAME_SIZE)
        return event

    def data_to_send(self) -> bytes:
        """Return and remove the bytes that must be sent now."""
        frames: list[bytes] = []
        for payload in self.outgoing:
            self._observe("sent", payload)
            frames += (encode_length(payload), payload)
        self.outgoing.clear()
        return b"".join(frames)

    def _next_payload(self) -> Optional[bytes]:
        try:
            payload = self._frames.next_frame()
        except FrameTooLargeError as error:
            if self._version_received:
                raise
            raise _not_an_offset_peer(error.length.to_bytes(FRAME_LENGTH_SIZE, "big")) from None
        if payload is None and self._is_other_protocol():
            raise _not_an_offset_peer(self._frames.peek(FRAME_LENGTH_SIZE))
        return payload

    def _is_other_protocol(self) -> bool:
        """Return whether fewer than 8 bytes arrived and they cannot start a version frame."""
        if self._version_received or len(self._frames) >= FRAME_LENGTH_SIZE:
            return False
        return is_other_protocol(self._frames.peek(FRAME_LENGTH_SIZE))

    def _receive_version(self, payload: bytes) -> None:
        # "A side that receives another length or another number closes the connection." (2)
        self._version_received = True
        if len(payload) != VERSION_SIZE:
            self.fail()
            raise VersionError(f"a version of {len(payload)} bytes")
        version = int.from_bytes(payload, "big")
        if version != PROTOCOL_VERSION:
            self.fail()
            raise VersionError(f"protocol version {version}; only {PROTOCOL_VERSION} is supported")
        self._frames.set_limit(MAX_HANDSHAKE_FRAME_SIZE)


def _not_an_offset_peer(first: bytes) -> VersionError:
    return VersionError(f"not an Offset peer: {name_protocol(first)}")
