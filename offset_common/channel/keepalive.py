"""Handshake, secure channel and keepalive over whole payloads.

Between a node and a relay, the payloads travel in frames (connection.py). Between two nodes, end to end,
they are the messages of the tunnel.

Source: sections 4 to 6 of docs/protocol.md.
"""

from __future__ import annotations

import enum
import os
from typing import Any, Optional

from offset_common.channel.events import Event, HandshakeCompleted, MessageReceived
from offset_common.channel.handshake import Handshake, RandomBytes
from offset_common.channel.secure_channel import Observer, SecureChannel
from offset_common.constants import (
    IDLE_TIMEOUT,
    KEEPALIVE_INTERVAL,
    MAX_KEEPALIVE_PADDING_SENT,
)
from offset_common.errors import LocalProtocolError, PeerError, SilenceError
from offset_common.identity import Identity
from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce, KaMessage

_KEEPALIVE = KaMessage(None).encode()


class ChannelState(enum.Enum):
    """The message that is expected next from the peer.

    RAND_NONCE -- ExchangeRandNonce --> DH -- ExchangeDh --> READY; any PeerError --> FAILED
    """

    RAND_NONCE = "waits for ExchangeRandNonce"
    DH = "waits for ExchangeDh"
    READY = "ready"
    FAILED = "failed"


class KeepaliveChannel:
    """A state machine for messages to and from a proven peer, with keepalives in both directions.

    Args:
        identity: this side's identity.
        now: seconds, by the same clock as every later `now`.
        expected_peer: the public key that the peer must have, or None to accept any.
        random_bytes: the source of randomness.
        observer: called with the values of every layer, or None.
    """

    __slots__ = (
        "_handshake",
        "_observer",
        "_random_bytes",
        "_secure",
        "last_received",
        "last_sent",
        "outgoing",
        "state",
    )

    def __init__(
        self,
        identity: Identity,
        now: float,
        expected_peer: Optional[bytes] = None,
        random_bytes: RandomBytes = os.urandom,
        observer: Optional[Observer] = None,
    ) -> None:
        self.last_received = now
        self.last_sent = now
        self._random_bytes = random_bytes
        self._observer = observer
        self._secure: Optional[SecureChannel] = None
        self.state = ChannelState.RAND_NONCE
        self._handshake: Optional[Handshake] = Handshake(identity, expected_peer, random_bytes)
        self.outgoing: list[bytes] = []  # payloads, in the order to send them
        first = self._handshake.first_message()
        self._observe("sent", first)
        self.outgoing.append(first.encode())

    def export_state(self) -> dict[str, Any]:
        """Return what another process needs to continue this channel, as values for JSON.

        Raises:
            LocalProtocolError: the handshake is not complete, or our own rekey is unanswered.
        """
        state = self.secure_channel.export_state()
        return {**state, "last_received": self.last_received, "last_sent": self.last_sent}

    @classmethod
    def import_state(cls, state: dict[str, Any], random_bytes: RandomBytes = os.urandom) -> KeepaliveChannel:
        """Continue a channel that another process of this machine exported."""
        channel = cls.__new__(cls)
        channel.last_received = state["last_received"]
        channel.last_sent = state["last_sent"]
        channel._random_bytes = random_bytes
        channel._observer = None
        channel._secure = SecureChannel.import_state(state, random_bytes)
        channel.state = ChannelState.READY
        channel._handshake = None
        channel.outgoing = channel._secure.outgoing
        return channel

    @property
    def established(self) -> bool:
        """Whether the handshake is complete and the channel has not failed."""
        return self.state is ChannelState.READY

    @property
    def secure_channel(self) -> SecureChannel:
        """The established channel.

        Raises:
            LocalProtocolError: the handshake is not complete.
        """
        if self._secure is None:
            raise LocalProtocolError("the handshake is not complete")
        return self._secure

    @property
    def peer_public_key(self) -> bytes:
        """The proven key of the peer, 32 bytes.

        Raises:
            LocalProtocolError: the handshake is not complete.
        """
        return self.secure_channel.peer_public_key

    def receive_payload(self, payload: bytes, now: float) -> Optional[Event]:
        """Handle the peer's next payload; return its event, or None if it has none.

        Raises:
            PeerError: the peer broke the protocol; the channel has failed.
            LocalProtocolError: the channel has already failed.
        """
        try:
            event = self._receive(payload, now)
        except PeerError:
            self.fail()
            raise
        self.last_received = now
        return event

    def send(self, message: bytes, now: float, sparse: bool = False) -> None:
        """Encrypt one message and append it to `outgoing`.

        Args:
            message: bytes of the layer above.
            now: seconds.
            sparse: whether to compress zero bytes by packing.

        Raises:
            LocalProtocolError: the channel is not ready, or has failed.
        """
        if not self.established:
            raise LocalProtocolError(f"cannot send: the channel {self.state.value}")
        value = KaMessage(message)
        self._observe("sent", value)
        self.secure_channel.send(value.encode(sparse))
        self.last_sent = now

    def next_deadline(self) -> float:
        """Return the earliest time, in seconds, at which `handle_time` has work to do."""
        idle_at = self.last_received + IDLE_TIMEOUT
        if self._secure is None:
            return idle_at
        return min(idle_at, self.last_sent + KEEPALIVE_INTERVAL, self._secure.rekey_at)

    def is_silent(self, now: float) -> bool:
        """Return whether nothing was received for 32 s."""
        return now - self.last_received >= IDLE_TIMEOUT

    def handle_time(self, now: float) -> None:
        """Send a keepAlive and start a rekey if it is time for them.

        Raises:
            SilenceError: nothing was received for 32 s.
        """
        if self.is_silent(now):
            self.fail()
            raise SilenceError(f"nothing received for {IDLE_TIMEOUT:.0f} s")
        if not self.established:
            return
        secure = self.secure_channel
        if now >= secure.rekey_at:
            secure.start_rekey(now)
        if now - self.last_sent >= KEEPALIVE_INTERVAL:
            self._observe("sent", KaMessage(None))
            secure.send(_KEEPALIVE, MAX_KEEPALIVE_PADDING_SENT)
            self.last_sent = now

    def fail(self) -> None:
        """Stop receiving and sending, because the peer broke the protocol."""
        self.state = ChannelState.FAILED

    def mark_received(self, now: float) -> None:
        """Restart the peer's idle timeout: it sent something, or this side was not reading."""
        self.last_received = now

    def mark_sent(self, now: float) -> None:
        """Restart the keepAlive interval: the fast path sent a message."""
        self.last_sent = now

    def _receive(self, payload: bytes, now: float) -> Optional[Event]:
        if self.state is ChannelState.READY:
            user = self.secure_channel.receive(payload, now)
            return None if user is None else self._receive_user(user)
        if self.state is ChannelState.FAILED or self._handshake is None:
            raise LocalProtocolError("the channel has already failed")
        if self.state is ChannelState.RAND_NONCE:
            self._receive_rand_nonce(self._handshake, payload)
            return None
        return self._receive_dh(self._handshake, payload, now)

    def _receive_rand_nonce(self, handshake: Handshake, payload: bytes) -> None:
        message = ExchangeRandNonce.decode(payload)
        self._observe("received", message)
        answer = handshake.receive_rand_nonce(message)
        self._observe("sent", answer)
        self.outgoing.append(answer.encode())
        self.state = ChannelState.DH

    def _receive_dh(self, handshake: Handshake, payload: bytes, now: float) -> Event:
        message = ExchangeDh.decode(payload)
        self._observe("received", message)
        keys = handshake.receive_dh(message)
        peer = handshake.peer_public_key
        # One queue for both, so that encrypted messages follow the rest of the handshake.
        self._secure = SecureChannel(keys, peer, now, self._random_bytes, self._observer, self.outgoing)
        self._handshake = None
        self.last_sent = now
        self.state = ChannelState.READY
        return HandshakeCompleted(peer)

    def _receive_user(self, user: bytes) -> Optional[Event]:
        if user == _KEEPALIVE and self._observer is None:
            return None  # all known encoders write these bytes
        value = KaMessage.decode(user)
        self._observe("received", value)
        return None if value.message is None else MessageReceived(value.message)

    def _observe(self, direction: str, value: object) -> None:
        if self._observer:
            self._observer(direction, value)
