"""The keys of a recorded run, computed step by step as in a node, but without the code of channel/.

    dh_public_key = X25519(dh_private_key, base point)
    signature     = Ed25519(seed, dh_public_key || the peer's rand_nonce || key_salt)
    shared        = X25519(dh_private_key, the peer's dh_public_key)
    sending       = HKDF-SHA-512/256(shared, salt = our key_salt)
    receiving     = HKDF-SHA-512/256(shared, salt = the peer's key_salt)

Source: section 4 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from offset_common.constants import CHANNEL_KEY_SIZE, NONCE_SIZE
from offset_common.errors import DecryptionError, HandshakeError
from offset_common.identity import Identity, verify_signature
from offset_common.illustrate.recording import Exchange
from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce


@dataclass(frozen=True)
class Secrets:
    """One side of a handshake: what it knew, what it received and what it computed. All are bytes.

    Args:
        seed: the seed of its identity.
        own: its random bytes.
        peer_nonce: the first message that it received.
        peer_dh: the second message that it received.
        sent_dh: the second message that it sent.
        shared: the result of the key exchange.
        sending: the key for what it sends.
        receiving: the key for what it receives.
    """

    seed: bytes
    own: Exchange
    peer_nonce: ExchangeRandNonce
    peer_dh: ExchangeDh
    sent_dh: ExchangeDh
    shared: bytes
    sending: bytes
    receiving: bytes


def compute_secrets(
    seed: bytes, own: Exchange, peer_nonce: ExchangeRandNonce, peer_dh: ExchangeDh, sent_dh: ExchangeDh
) -> Secrets:
    """Compute what one side of a handshake computed; the arguments are those of Secrets.

    Raises:
        HandshakeError: the seed is not the one that signed.
    """
    signed = sent_dh.dh_public_key + sent_dh.rand_nonce + sent_dh.key_salt
    if not verify_signature(Identity.from_seed(seed).public_key, sent_dh.signature, signed):
        raise HandshakeError("a signature is not from the recorded identity")
    private = X25519PrivateKey.from_private_bytes(bytes.fromhex(own.dh_private_key))
    shared = private.exchange(X25519PublicKey.from_public_bytes(peer_dh.dh_public_key))
    sending, receiving = (
        HKDF(SHA512_256(), CHANNEL_KEY_SIZE, salt, b"").derive(shared)
        for salt in (bytes.fromhex(own.key_salt), peer_dh.key_salt)
    )
    return Secrets(seed, own, peer_nonce, peer_dh, sent_dh, shared, sending, receiving)


def decrypt(key: bytes, payload: bytes) -> bytes:
    """Return the plaintext of an encrypted payload.

    Raises:
        DecryptionError: it is not encrypted with this key.
    """
    try:
        return ChaCha20Poly1305(key).decrypt(payload[:NONCE_SIZE], payload[NONCE_SIZE:], None)
    except (InvalidTag, ValueError):
        raise DecryptionError("a message does not decrypt under the keys of its handshake") from None
