"""The computations of a handshake as steps: inputs, output, where to read about it, and a program for each.

Source: section 4 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from offset_common.constants import NONCE_SIZE
from offset_common.illustrate.secrets import Secrets, decrypt

_X25519 = ("X25519", "RFC 7748", "https://www.rfc-editor.org/rfc/rfc7748#section-5")
_ED25519 = ("Ed25519", "RFC 8032", "https://www.rfc-editor.org/rfc/rfc8032#section-5.1")
_HKDF = ("HKDF with SHA-512/256", "RFC 5869", "https://www.rfc-editor.org/rfc/rfc5869#section-2")
_AEAD = ("ChaCha20-Poly1305", "RFC 8439", "https://www.rfc-editor.org/rfc/rfc8439#section-2.8")
VALID = "valid"


@dataclass(frozen=True)
class Value:
    """A named input or output.

    Args:
        name: its name.
        text: its value in hexadecimal, or in words.
        source: where it comes from.
        frame: the number of the frame that contained it; 0 if there is none.
    """

    name: str
    text: str
    source: str = ""
    frame: int = 0


@dataclass(frozen=True)
class Step:
    """One computation.

    Args:
        title: the computation in a few words.
        text: how and why, in a sentence or two.
        algorithm: its name, the document that defines it, and that document's address.
        inputs: all inputs.
        output: the result, which the program prints.
        program: Python, which needs the package cryptography.
    """

    title: str
    text: str
    algorithm: tuple[str, str, str]
    inputs: list[Value]
    output: Value
    program: str


@dataclass(frozen=True)
class Side:
    """One side of a handshake.

    Args:
        secrets: the secrets that it knew and computed.
        peer: the name of the other side, such as "the relay".
        sent_dh: the number of the frame with the ExchangeDh that it sent.
        peer_nonce: the number of the frame with the ExchangeRandNonce that it received.
        peer_dh: the number of the frame with the ExchangeDh that it received.
    """

    secrets: Secrets
    peer: str
    sent_dh: int
    peer_nonce: int
    peer_dh: int


def handshake_steps(side: Side) -> list[Step]:
    """Return the computations of one side of a handshake, in order."""
    secrets = side.secrets
    own_salt = Value("salt", secrets.own.key_salt, "our keySalt", side.sent_dh)
    peer_salt = Value("salt", secrets.peer_dh.key_salt.hex(), f"{side.peer}'s keySalt", side.peer_dh)
    return [
        _public_key(side),
        _signature(side),
        _verification(side),
        _shared(side),
        _channel_key(secrets.shared, own_salt, secrets.sending, "sending"),
        _channel_key(secrets.shared, peer_salt, secrets.receiving, "receiving"),
    ]


def decryption_step(key: bytes, payload: bytes, key_name: str) -> Step:
    """Return the decryption of a payload.

    Args:
        key: 32 bytes.
        payload: nonce, ciphertext and tag.
        key_name: the key's name.
    """
    program = f"""\
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

key = bytes.fromhex("{key.hex()}")
payload = bytes.fromhex("{payload.hex()}")
nonce, ciphertext_and_tag = payload[:12], payload[12:]
print(ChaCha20Poly1305(key).decrypt(nonce, ciphertext_and_tag, None).hex())
"""
    return Step(
        "Decrypt it",
        "The nonce is the number of the message. There is no associated data.",
        _AEAD,
        [
            Value("key", key.hex(), key_name),
            Value("nonce", payload[:NONCE_SIZE].hex(), "the first 12 bytes"),
            Value(
                "ciphertext and tag",
                payload[NONCE_SIZE:].hex(),
                "the rest; the tag is the last 16 bytes",
            ),
        ],
        Value("plaintext", decrypt(key, payload).hex(), "a packed ChannelMessage"),
        program,
    )


def _public_key(side: Side) -> Step:
    secrets = side.secrets
    private = secrets.own.dh_private_key
    program = f"""\
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

private = X25519PrivateKey.from_private_bytes(bytes.fromhex("{private}"))
print(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex())
"""
    return Step(
        "Make half of a key exchange",
        "The private key is 32 random bytes. Multiplied by the base point of Curve25519, it gives the public "
        "key.",
        _X25519,
        [Value("private key", private, "random, used for this connection only")],
        Value("dhPublicKey", secrets.sent_dh.dh_public_key.hex(), "sent in ExchangeDh", side.sent_dh),
        program,
    )


def _signature(side: Side) -> Step:
    secrets, peer = side.secrets, side.peer
    dh_public_key, nonce = secrets.sent_dh.dh_public_key.hex(), secrets.peer_nonce.rand_nonce.hex()
    salt, seed = secrets.own.key_salt, secrets.seed.hex()
    program = f"""\
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

identity = Ed25519PrivateKey.from_private_bytes(bytes.fromhex("{seed}"))
dh_public_key = bytes.fromhex("{dh_public_key}")
rand_nonce = bytes.fromhex("{nonce}")
key_salt = bytes.fromhex("{salt}")
print(identity.sign(dh_public_key + rand_nonce + key_salt).hex())
"""
    return Step(
        "Prove the identity",
        f"Sign our half of the exchange and {peer}'s nonce. The nonce is new, so no old signature is valid.",
        _ED25519,
        [
            Value("seed", seed, "the private key of the identity"),
            Value("dhPublicKey", dh_public_key, "the previous step"),
            Value("randNonce", nonce, f"{peer}'s", side.peer_nonce),
            Value("keySalt", salt, "random"),
        ],
        Value("signature", secrets.sent_dh.signature.hex(), "sent in ExchangeDh", side.sent_dh),
        program,
    )


def _verification(side: Side) -> Step:
    secrets, peer = side.secrets, side.peer
    dh, key = secrets.peer_dh, secrets.peer_nonce.src_public_key.hex()
    program = f"""\
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

identity = Ed25519PublicKey.from_public_bytes(bytes.fromhex("{key}"))
dh_public_key = bytes.fromhex("{dh.dh_public_key.hex()}")
rand_nonce = bytes.fromhex("{dh.rand_nonce.hex()}")
key_salt = bytes.fromhex("{dh.key_salt.hex()}")
signature = bytes.fromhex("{dh.signature.hex()}")
identity.verify(signature, dh_public_key + rand_nonce + key_salt)  # raises InvalidSignature
print("{VALID}")
"""
    return Step(
        "Check the other identity",
        f"Check {peer}'s signature. Only the owner of its private key can sign our nonce.",
        _ED25519,
        [
            Value("srcPublicKey", key, f"{peer}'s", side.peer_nonce),
            Value("dhPublicKey", dh.dh_public_key.hex(), f"{peer}'s", side.peer_dh),
            Value("randNonce", dh.rand_nonce.hex(), "ours, sent back", side.peer_dh),
            Value("keySalt", dh.key_salt.hex(), f"{peer}'s", side.peer_dh),
            Value("signature", dh.signature.hex(), f"{peer}'s", side.peer_dh),
        ],
        Value("result", VALID),
        program,
    )


def _shared(side: Side) -> Step:
    secrets, peer = side.secrets, side.peer
    private, public = secrets.own.dh_private_key, secrets.peer_dh.dh_public_key.hex()
    program = f"""\
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

private = X25519PrivateKey.from_private_bytes(bytes.fromhex("{private}"))
public = X25519PublicKey.from_public_bytes(bytes.fromhex("{public}"))
print(private.exchange(public).hex())
"""
    return Step(
        "Agree on a secret",
        f"Our private key times {peer}'s public key is the same as {peer}'s private key times ours. "
        "An eavesdropper has only the public keys, and cannot compute it.",
        _X25519,
        [
            Value("private key", private, "ours"),
            Value("dhPublicKey", public, f"{peer}'s", side.peer_dh),
        ],
        Value("shared secret", secrets.shared.hex()),
        program,
    )


def _channel_key(shared: bytes, salt: Value, key: bytes, name: str) -> Step:
    program = f"""\
from cryptography.hazmat.primitives.hashes import SHA512_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

shared = bytes.fromhex("{shared.hex()}")
salt = bytes.fromhex("{salt.text}")
print(HKDF(SHA512_256(), length=32, salt=salt, info=b"").derive(shared).hex())
"""
    whose = "what we send" if name == "sending" else "what we receive"
    return Step(
        f"Derive the {name} key",
        f"HKDF derives the key for {whose}. The salts differ, so each direction has its own key.",
        _HKDF,
        [Value("input key material", shared.hex(), "the shared secret"), salt],
        Value(f"{name} key", key.hex()),
        program,
    )
