"""An identity: an Ed25519 key pair, its file, and keys as text.

Source: docs/protocol.md sections 4 and 8.
"""

from __future__ import annotations

import base64
import re
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from offset_common.constants import PRIVATE_KEY_SIZE
from offset_common.errors import UsageError
from offset_common.files import AnyPath, Fields, json_text, read_file, write_new_file


class Identity:
    """A private key, and so the right to be its public key.

    Source: docs/protocol.md section 4: whoever can sign with a key is that identity.
    """

    __slots__ = ("_private_key", "public_key")

    public_key: bytes  # 32 bytes

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> Identity:
        """Make a new identity from the system's randomness."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Make the identity of a private key.

        Args:
            seed: 32 bytes, as in an identity file.

        Raises:
            ValueError: it has another length.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The private key, 32 bytes: for writing files, and for nothing else."""
        return self._private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Sign a message; 64 bytes."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"<Identity {encode_key(self.public_key)}>"


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Tell whether this key made this signature of this message.

    Args:
        public_key: 32 bytes; of any other length, nothing verifies.
        signature: 64 bytes; of any other length, it does not verify.
        message: the bytes that were signed.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_identity(path: AnyPath) -> Identity:
    """Read an identity file.

    Raises:
        FileError: it cannot be read, or is not an identity file.

    Source: docs/protocol.md section 8.
    """
    fields = Fields.parse(path, read_file(path))
    return Identity.from_seed(read_key(fields, "privateKey", PRIVATE_KEY_SIZE))


def save_identity(identity: Identity, path: AnyPath) -> None:
    """Write a new identity file that only its owner can read.

    Raises:
        FileError: it exists, or cannot be written.

    Source: docs/protocol.md section 8.
    """
    write_new_file(path, json_text({"privateKey": encode_key(identity.seed)}), private=True)


def others_can_read(path: AnyPath) -> bool:
    """Tell whether the file's mode lets its group or everybody read it; False if there is no such file."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return bool(mode & (stat.S_IRGRP | stat.S_IROTH))


def encode_key(key: bytes) -> str:
    """Write a key as base64 in the URL alphabet, without padding.

    Source: docs/protocol.md section 8.
    """
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def decode_key(text: str, size: int) -> bytes:
    """Read a key from base64 in the URL alphabet, without padding.

    Args:
        text: exactly the text that encode_key gives for the key.
        size: bytes of the key.

    Raises:
        UsageError: it is another text; the error's text does not show it, it may be a secret.

    Source: docs/protocol.md section 8: another length or alphabet is refused.
    """
    if text.endswith("="):
        raise UsageError("ends in '=': keys are base64 without padding")
    if "+" in text or "/" in text:
        raise UsageError("has '+' or '/' in it: keys are base64 in the URL alphabet, with '-' and '_'")
    stray = re.search(r"[^A-Za-z0-9_-]", text)
    if stray:
        raise UsageError(f"is not base64 (character {stray.start() + 1})")
    expected = len(encode_key(bytes(size)))
    if len(text) != expected:
        raise UsageError(f"has {len(text)} characters, not the {expected} of a {size}-byte key")
    key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_key(key) != text:
        raise UsageError("ends in a character that no key ends in")
    return key


def read_key(fields: Fields, name: str, size: int) -> bytes:
    """Read the field of a file that holds a key.

    Raises:
        FileError: it is missing or not a key of this size.
    """
    try:
        return decode_key(fields.text(name), size)
    except UsageError as error:
        raise fields.error(f'"{name}" {error}') from error
