"""The secure channel's handshake: two messages each way, then both sides have keys.

Both sides run the same steps at the same time; there is no client and no server.

    me                                                             peer
     ExchangeRandNonce{randNonce=Rm, srcPublicKey=Im, optDest=?} →
     ← ExchangeRandNonce{randNonce=Rp, srcPublicKey=Ip, …}
     ExchangeDh{dhPublicKey=Dm, randNonce=Rp, keySalt=Sm, signature} →
     ← ExchangeDh{dhPublicKey=Dp, randNonce=Rm, keySalt=Sp, signature}

Source: section 4 of docs/protocol.md.
"""

from __future__ import annotations

import hmac
from typing import Callable, NamedTuple, Optional

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from offset_common.constants import CHANNEL_KEY_SIZE, KEY_SALT_SIZE, RAND_NONCE_SIZE
from offset_common.errors import HandshakeError
from offset_common.identity import Identity, verify_signature
from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce

RandomBytes = Callable[[int], bytes]

_MAX_Y = 2**255 - 1  # the bits of an Ed25519 public key that are y; the highest bit is the sign of x
_P = 2**255 - 19
_ORDER_8_Y = 0x7A03AC9277FDC74EC6CC392CFA53202A0F67100D760B3CBA4FD84D3D706A17C7
# The y coordinates of the eight points whose order divides 8, reduced or not: 14 keys with both signs.
# Anyone can forge a signature that verifies with one of them.
_SMALL_ORDER_Y = frozenset((0, 1, _ORDER_8_Y, _P - _ORDER_8_Y, _P - 1, _P, _P + 1))


class WrongPeerError(HandshakeError):
    """The peer's key is not the expected one.

    Args:
        reason: one clause for the user, without any key.
        found: 32 bytes, the key that the peer claims and has not proven.
        expected: 32 bytes.
    """

    def __init__(self, reason: str, found: bytes, expected: bytes) -> None:
        super().__init__(reason)
        self.found = found
        self.expected = expected


class ChannelKeys(NamedTuple):
    """The result of a handshake or a rekey: two keys of 32 bytes, hidden in the repr."""

    sending: bytes
    receiving: bytes

    def __repr__(self) -> str:
        return "ChannelKeys(...)"


class DhExchange:
    """One side's fresh Diffie-Hellman key and salt, for a handshake or a rekey.

    Args:
        random_bytes: the source of randomness; called for 32 bytes of private key, then 32 of salt.
    """

    __slots__ = ("_private_key", "key_salt", "public_key")

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._private_key = X25519PrivateKey.from_private_bytes(random_bytes(32))
        self.key_salt = random_bytes(KEY_SALT_SIZE)
        self.public_key = self._private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def derive_keys(self, peer_dh_public_key: bytes, peer_key_salt: bytes) -> ChannelKeys:
        """Return both keys of the channel.

        Raises:
            HandshakeError: the peer's key is of small order, which makes the shared value all zeros.
        """
        try:
            shared = self._private_key.exchange(X25519PublicKey.from_public_bytes(peer_dh_public_key))
        except ValueError:
            raise HandshakeError("a Diffie-Hellman key of small order") from None
        return ChannelKeys(
            sending=_derive_key(self.key_salt, shared), receiving=_derive_key(peer_key_salt, shared)
        )


def _derive_key(salt: bytes, shared: bytes) -> bytes:
    return HKDF(algorithm=SHA512_256(), length=CHANNEL_KEY_SIZE, salt=salt, info=b"").derive(shared)


class Handshake:
    """One side of a handshake.

    Args:
        identity: this side's identity.
        expected_peer: the public key that the peer must have, or None to accept any.
        random_bytes: the source of randomness.
    """

    __slots__ = (
        "_exchange",
        "_expected_peer",
        "_identity",
        "_rand_nonce",
        "_random_bytes",
        "peer_public_key",
    )

    def __init__(self, identity: Identity, expected_peer: Optional[bytes], random_bytes: RandomBytes) -> None:
        self._identity = identity
        self._expected_peer = expected_peer
        self._random_bytes = random_bytes
        self._rand_nonce = random_bytes(RAND_NONCE_SIZE)
        self.peer_public_key = b""  # as the peer claims; `receive_dh` proves it
        self._exchange: Optional[DhExchange] = None

    def first_message(self) -> ExchangeRandNonce:
        """Return our first message, which is sent at once, without waiting for the peer."""
        return ExchangeRandNonce(self._rand_nonce, self._identity.public_key, self._expected_peer)

    def receive_rand_nonce(self, message: ExchangeRandNonce) -> ExchangeDh:
        """Handle the peer's first message; return our second.

        Raises:
            WrongPeerError: the peer's key is not the expected one.
            HandshakeError: the peer has our own key, or a key of small order.
        """
        if message.src_public_key == self._identity.public_key:
            # Someone who crosses two connections could make us authenticate to ourselves.
            raise HandshakeError(
                "both sides present the same identity; give each program an identity file of its own"
            )
        if int.from_bytes(message.src_public_key, "little") & _MAX_Y in _SMALL_ORDER_Y:
            raise HandshakeError("the peer's public key is of small order")
        if self._expected_peer is not None and message.src_public_key != self._expected_peer:
            raise WrongPeerError(
                "the peer's identity is not the expected one", message.src_public_key, self._expected_peer
            )
        self.peer_public_key = message.src_public_key
        self._exchange = exchange = DhExchange(self._random_bytes)
        signed = exchange.public_key + message.rand_nonce + exchange.key_salt
        return ExchangeDh(
            exchange.public_key, message.rand_nonce, exchange.key_salt, self._identity.sign(signed)
        )

    def receive_dh(self, message: ExchangeDh) -> ChannelKeys:
        """Handle the peer's second message, which proves its key; return the channel's keys.

        Raises:
            HandshakeError: the peer did not sign our challenge, or its signature is wrong.
        """
        assert self._exchange is not None
        if not hmac.compare_digest(message.rand_nonce, self._rand_nonce):
            raise HandshakeError("the peer did not sign our challenge")
        signed = message.dh_public_key + message.rand_nonce + message.key_salt
        if not verify_signature(self.peer_public_key, message.signature, signed):
            raise HandshakeError("the peer's signature is wrong")
        return self._exchange.derive_keys(message.dh_public_key, message.key_salt)
