"""The secure channel after its handshake: encrypted messages, and new keys every hour.

How the keys of one side change (section 5.1 of docs/protocol.md):

    event                                sending key          receiving key
    -----------------------------------  -------------------  ------------------------------------
    an hour has passed: send Rekey       unchanged            unchanged; our exchange is pending
    Rekey received, ours is not pending  answer, then new     new; the old one is kept
    Rekey received, ours is pending      new, no answer       new; the old one is kept
    first message under the new key      unchanged            the old one is dropped
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from offset_common.channel.cipher import CipherState
from offset_common.channel.classify import find_short_user
from offset_common.channel.handshake import ChannelKeys, DhExchange, RandomBytes
from offset_common.constants import (
    MAX_PADDING_SENT,
    MAX_REKEYS_IN_WINDOW,
    REKEY_INTERVAL,
    REKEY_WINDOW,
)
from offset_common.errors import DecryptionError, HandshakeError, LocalProtocolError, RekeyError
from offset_common.wire.messages import ChannelMessage, Rekey

Observer = Callable[[str, object], None]
"""Called with the values of each layer: ("sent" or "received", the value)."""


class SecureChannel:
    """Encrypts and decrypts byte strings between two proven peers.

    Args:
        keys: the result of the handshake.
        peer_public_key: 32 bytes, proven by the handshake.
        now: seconds, by the same clock as every later `now`.
        random_bytes: the source of randomness.
        observer: called with every ChannelMessage, or None.
        outgoing: a list to append encrypted payloads to, in the order to send them.
    """

    __slots__ = (
        "_observer",
        "_pending",
        "_random_bytes",
        "_rekeyed_at",
        "old_receiving",
        "outgoing",
        "peer_public_key",
        "receiving",
        "rekey_at",
        "sending",
    )

    def __init__(
        self,
        keys: ChannelKeys,
        peer_public_key: bytes,
        now: float,
        random_bytes: RandomBytes,
        observer: Optional[Observer] = None,
        outgoing: Optional[list[bytes]] = None,
    ) -> None:
        self.peer_public_key = peer_public_key
        self.sending = CipherState(keys.sending)
        self.receiving = CipherState(keys.receiving)
        self.old_receiving: Optional[CipherState] = None
        self.rekey_at = now + REKEY_INTERVAL
        self.outgoing: list[bytes] = [] if outgoing is None else outgoing
        self._pending: Optional[DhExchange] = None
        self._rekeyed_at: tuple[float, ...] = ()  # when the peer started its latest rekeys
        self._random_bytes = random_bytes
        self._observer = observer

    def export_state(self) -> dict[str, Any]:
        """Return what another process needs to continue this channel, as values for JSON.

        Raises:
            LocalProtocolError: our own rekey is unanswered.
        """
        if self._pending is not None:
            raise LocalProtocolError("cannot export a channel while its rekey is pending")
        return {
            "peer_public_key": self.peer_public_key.hex(),
            "sending": self.sending.export_state(),
            "receiving": self.receiving.export_state(),
            "old_receiving": self.old_receiving and self.old_receiving.export_state(),
            "rekey_at": self.rekey_at,
            "rekeyed_at": self._rekeyed_at,
        }

    @classmethod
    def import_state(cls, state: dict[str, Any], random_bytes: RandomBytes) -> SecureChannel:
        """Continue a channel that another process exported."""
        keys = ChannelKeys(bytes.fromhex(state["sending"][0]), bytes.fromhex(state["receiving"][0]))
        channel = cls(keys, bytes.fromhex(state["peer_public_key"]), 0.0, random_bytes)
        channel.sending = CipherState.import_state(state["sending"])
        channel.receiving = CipherState.import_state(state["receiving"])
        if state["old_receiving"]:
            channel.old_receiving = CipherState.import_state(state["old_receiving"])
        channel.rekey_at = state["rekey_at"]
        channel._rekeyed_at = tuple(state["rekeyed_at"])
        return channel

    def send(self, content: Union[bytes, Rekey], max_padding: int = MAX_PADDING_SENT) -> None:
        """Encrypt user data or a Rekey, with 0 to `max_padding` (at most 255) bytes of padding."""
        random = self._random_bytes(1 + max_padding)
        padding = random[1 : 1 + random[0] % (max_padding + 1)]
        message = ChannelMessage(padding, content)
        self.outgoing.append(self.sending.encrypt(message.encode()))
        if self._observer:
            self._observer("sent", message)

    def receive(self, payload: bytes, now: float) -> Optional[bytes]:
        """Decrypt the peer's next message; return its user data, or None for a rekey.

        Raises:
            DecryptionError: it is not the next message under the channel's key.
            DecodeError: the plaintext is not a ChannelMessage.
            RekeyError: the peer starts rekeys too often, or with a key of small order.
        """
        plaintext = self._decrypt(payload)
        if self._observer is None:
            user = find_short_user(plaintext)  # avoids unpacking 32 KiB of padding for a keepAlive
            if user is not None:
                return user
        message = ChannelMessage.decode(plaintext)
        if self._observer:
            self._observer("received", message)
        if isinstance(message.content, Rekey):
            self._receive_rekey(message.content, now)
            return None
        return message.content

    def start_rekey(self, now: float) -> None:
        """Send a Rekey, unless the last one is still unanswered."""
        self.rekey_at = now + REKEY_INTERVAL
        if self._pending is None:
            self._pending = DhExchange(self._random_bytes)
            self.send(_rekey_of(self._pending))

    def _decrypt(self, payload: bytes) -> bytes:
        if self.old_receiving is None:
            return self.receiving.decrypt(payload)
        # "While an old receiving key is kept, try it first;
        # the first message that decrypts under the new one drops the old." (5.1)
        try:
            return self.old_receiving.decrypt(payload)
        except DecryptionError:
            plaintext = self.receiving.decrypt(payload)
            self.old_receiving = None
            return plaintext

    def _receive_rekey(self, rekey: Rekey, now: float) -> None:
        if self.old_receiving is not None:
            raise RekeyError("a second Rekey under a key that the first one replaced")
        exchange = self._pending
        if exchange is None:
            self._count_rekey(now)
            exchange = DhExchange(self._random_bytes)
        try:
            keys = exchange.derive_keys(rekey.dh_public_key, rekey.key_salt)
        except HandshakeError as error:
            raise RekeyError(str(error)) from None
        if self._pending is None:
            self.send(_rekey_of(exchange))  # "under the old sending key"
        self._pending = None
        self.sending = CipherState(keys.sending)
        self.old_receiving = self.receiving
        self.receiving = CipherState(keys.receiving)
        self.rekey_at = now + REKEY_INTERVAL

    def _count_rekey(self, now: float) -> None:
        earlier = self._rekeyed_at[-MAX_REKEYS_IN_WINDOW:]
        self._rekeyed_at = (*earlier, now)
        if len(earlier) == MAX_REKEYS_IN_WINDOW and now - earlier[0] < REKEY_WINDOW:
            raise RekeyError(f"more than {MAX_REKEYS_IN_WINDOW} rekeys within {REKEY_WINDOW:.0f} s")


def _rekey_of(exchange: DhExchange) -> Rekey:
    return Rekey(exchange.public_key, exchange.key_salt)
