"""A test peer's secure channel without I/O: handshake, sealed messages, rekeys (sections 4 to 6).

Written on `cryptography` alone, so that the relay's own channel is checked against another implementation.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from typing import Any, Optional, Union

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offset_common.wire.messages import ChannelMessage, ExchangeDh, ExchangeRandNonce, KaMessage, Rekey
from tests.support.encoding import (
    MAX_RELEASED_PADDING,
    VERSION,
    channel_message,
    decode,
    encode,
    ka_message,
)


class WrongAnswer(Exception):
    """The other side broke the protocol."""


class KeyPair:
    """An Ed25519 identity.

    Args:
        seed: 32 bytes; random if None.
    """

    def __init__(self, seed: Optional[bytes] = None) -> None:
        self._private_key = Ed25519PrivateKey.from_private_bytes(seed or os.urandom(32))
        self.public_key = raw(self._private_key.public_key())

    def sign(self, data: bytes) -> bytes:
        """Return the signature of data."""
        return self._private_key.sign(data)


def raw(public_key: Any) -> bytes:
    """Return the 32 bytes of a public key."""
    return bytes(public_key.public_bytes(Encoding.Raw, PublicFormat.Raw))


class _Direction:
    """The key of one direction, and the number of its next message."""

    def __init__(self, key: bytes) -> None:
        self.aead = ChaCha20Poly1305(key)
        self.count = 0

    def seal(self, plaintext: bytes) -> bytes:
        nonce = self.count.to_bytes(12, "little")
        self.count += 1
        return nonce + self.aead.encrypt(nonce, plaintext, None)

    def open(self, payload: bytes) -> bytes:
        nonce = self.count.to_bytes(12, "little")
        if payload[:12] != nonce:
            raise WrongAnswer("the nonce is not the next one")
        try:
            plaintext = self.aead.decrypt(nonce, payload[12:], None)
        except InvalidTag as error:
            raise WrongAnswer("the message is not sealed with this key") from error
        self.count += 1
        return plaintext


class _Exchange:
    """A fresh Diffie-Hellman key and salt."""

    def __init__(self) -> None:
        self.private_key = X25519PrivateKey.generate()
        self.public_key = raw(self.private_key.public_key())
        self.salt = os.urandom(32)

    def derive(self, peer_key: bytes, peer_salt: bytes) -> tuple[_Direction, _Direction]:
        shared = self.private_key.exchange(X25519PublicKey.from_public_bytes(peer_key))
        keys = [
            HKDF(SHA512_256(), length=32, salt=salt, info=b"").derive(shared)
            for salt in (self.salt, peer_salt)
        ]
        return _Direction(keys[0]), _Direction(keys[1])


def unchanged(proof: ExchangeDh) -> ExchangeDh:
    """Return a proof as it is."""
    return proof


class Channel:
    """One side of a secure channel; payloads in, payloads out.

    Args:
        keys: the identity of this side.
        expected: the key that the other side must have, or None for any.
        released: whether to lay messages out and pad them as released nodes do.
        version: whether both sides send a version first.
    """

    def __init__(
        self, keys: KeyPair, expected: Optional[bytes] = None, released: bool = False, version: bool = True
    ) -> None:
        self.expected = expected
        self.released = released
        self.established = False
        self.peer_key = b""
        self.keepalives = 0  # received
        self.outgoing: list[bytes] = []  # payloads that must be sent now
        self._keys = keys
        self._nonce = os.urandom(16)
        self._exchange = _Exchange()
        self._pending: Optional[_Exchange] = None
        self._old_receiving: Optional[_Direction] = None
        self._next: Callable[[bytes], Optional[bytes]] = (
            self._receive_version if version else self._receive_nonce
        )

    @property
    def public_key(self) -> bytes:
        """The key of this side."""
        return self._keys.public_key

    # The handshake, section 4.

    def start(self) -> None:
        """Start the handshake; `receive` continues it."""
        if self._next == self._receive_version:
            self.outgoing.append(VERSION)
        self.outgoing.append(self.first_message())

    def first_message(self) -> bytes:
        """Return the payload of our ExchangeRandNonce."""
        return encode(ExchangeRandNonce(self._nonce, self._keys.public_key, self.expected))

    def prove(self, payload: bytes, spoil: Callable[[ExchangeDh], ExchangeDh] = unchanged) -> bytes:
        """Take the other side's ExchangeRandNonce; return the payload of our ExchangeDh.

        Args:
            spoil: changes our proof before it is encoded.
        """
        theirs = decode(ExchangeRandNonce, payload)
        if self.expected not in (None, theirs.src_public_key):
            raise WrongAnswer("the other side has another key than expected")
        self.peer_key = theirs.src_public_key
        exchange = self._exchange
        signature = self._keys.sign(exchange.public_key + theirs.rand_nonce + exchange.salt)
        return encode(spoil(ExchangeDh(exchange.public_key, theirs.rand_nonce, exchange.salt, signature)))

    def finish(self, payload: bytes) -> None:
        """Take the other side's ExchangeDh: the channel is established."""
        answer = decode(ExchangeDh, payload)
        if answer.rand_nonce != self._nonce:
            raise WrongAnswer("the proof is for another challenge")
        signed = answer.dh_public_key + answer.rand_nonce + answer.key_salt
        try:
            Ed25519PublicKey.from_public_bytes(self.peer_key).verify(answer.signature, signed)
        except InvalidSignature as error:
            raise WrongAnswer("the signature is wrong") from error
        self.sending, self.receiving = self._exchange.derive(answer.dh_public_key, answer.key_salt)
        self.established = True
        self._next = self._receive_sealed

    def receive(self, payload: bytes) -> Optional[bytes]:
        """Take the payload of one frame; return its message, or None if it carries none."""
        return self._next(payload)

    def _receive_version(self, payload: bytes) -> None:
        if payload != VERSION:
            raise WrongAnswer("another version")
        self._next = self._receive_nonce

    def _receive_nonce(self, payload: bytes) -> None:
        self.outgoing.append(self.prove(payload))
        self._next = self.finish

    # Sealed messages, section 5, and keepalives, section 6.

    def seal(self, message: Optional[bytes], padding: Optional[int] = None) -> bytes:
        """Return the payload of one message, or of a keepAlive for None."""
        if padding is None:
            padding = random.randint(0, MAX_RELEASED_PADDING if self.released else 255)
        user = ka_message(message, self.released)
        return self.sending.seal(channel_message(user, padding, self.released))

    def open(self, payload: bytes) -> Union[Rekey, bytes]:
        """Return the content of a sealed payload: a Rekey, or the bytes of the layer above."""
        content: Union[Rekey, bytes] = decode(ChannelMessage, self._open(payload)).content
        return content

    def read_message(self, user: bytes) -> Optional[bytes]:
        """Return the message in the bytes of the layer above, or None for a keepAlive."""
        message: Optional[bytes] = decode(KaMessage, user).message
        self.keepalives += message is None
        return message

    def _receive_sealed(self, payload: bytes) -> Optional[bytes]:
        content = self.open(payload)
        if isinstance(content, Rekey):
            self.take_rekey(content)
            return None
        return self.read_message(content)

    def _open(self, payload: bytes) -> bytes:
        # "try it first; the first message that decrypts under the new one drops the old" (5.1)
        if self._old_receiving is not None:
            try:
                return self._old_receiving.open(payload)
            except WrongAnswer:
                plaintext = self.receiving.open(payload)
                self._old_receiving = None
                return plaintext
        return self.receiving.open(payload)

    # Rekeys, section 5.1.

    @property
    def rekey_pending(self) -> bool:
        """Whether a rekey that this side started is unanswered."""
        return self._pending is not None

    def start_rekey(self) -> bytes:
        """Return the payload that starts a rekey; `receive` takes the answer."""
        self._pending = _Exchange()
        return self._seal_rekey(self._pending)

    def _seal_rekey(self, exchange: _Exchange) -> bytes:
        return self.sending.seal(encode(ChannelMessage(b"", Rekey(exchange.public_key, exchange.salt))))

    def take_rekey(self, rekey: Rekey) -> None:
        """Switch to new keys; the answer, if one is needed, is put into `outgoing`."""
        exchange = self._pending
        if exchange is None:
            exchange = _Exchange()
            self.outgoing.append(self._seal_rekey(exchange))
        self._pending = None
        self._old_receiving = self.receiving
        self.sending, self.receiving = exchange.derive(rekey.dh_public_key, rekey.key_salt)
