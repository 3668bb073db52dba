"""Identities (Ed25519 key pairs), identity files, and keys as text.

Source: docs/protocol.md sections 4 and 8.
"""

from __future__ import annotations

import base64
import enum
import re
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from offset_common.constants import PKCS8_PRIVATE_KEY_SIZE, PRIVATE_KEY_SIZE
from offset_common.errors import UsageError
from offset_common.fields import Fields, json_text
from offset_common.file_kinds import FileKind
from offset_common.files import AnyPath, read_file, write_new_file

SHORT_KEY_SIZE = 8  # characters


class Identity:
    """An Ed25519 key pair; its public key is the identity.

    Source: docs/protocol.md section 4.
    """

    __slots__ = ("_private_key", "public_key")

    public_key: bytes  # 32 bytes

    def __init__(self, private_key: Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self.public_key = private_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    @classmethod
    def generate(cls) -> Identity:
        """Return a new random identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """Return the identity of a private key.

        Args:
            seed: 32 bytes, as in an identity file.

        Raises:
            ValueError: the seed does not have 32 bytes.
        """
        return cls(Ed25519PrivateKey.from_private_bytes(seed))

    @property
    def seed(self) -> bytes:
        """The private key, 32 bytes. Use it only to write files."""
        return self._private_key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of a message."""
        return self._private_key.sign(message)

    def __repr__(self) -> str:
        return f"<Identity {encode_key(self.public_key)}>"


def verify_signature(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether a signature of a message is valid under a key.

    Args:
        public_key: 32 bytes; False for any other length.
        signature: 64 bytes; False for any other length.
        message: the signed bytes.
    """
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


class KeyForm(enum.Enum):
    """The form of a private key in a file. The value describes it in a sentence.

    Source: docs/protocol.md section 8.
    """

    SEED = "a 32-byte seed, for release 0.1.11"
    PKCS8 = "PKCS#8, for releases up to 0.1.10"


@dataclass(frozen=True)
class PrivateKey:
    """A private key, as stored in a file.

    Args:
        seed: 32 bytes.
        form: how the file stores it.
    """

    seed: bytes = field(repr=False)
    form: KeyForm


def load_identity(path: AnyPath) -> Identity:
    """Load an identity file, whose private key may have either form.

    Raises:
        FileError: the file cannot be read, or is not an identity file.

    Source: docs/protocol.md section 8.
    """
    fields = Fields.parse(path, read_file(path), FileKind.IDENTITY)
    return Identity.from_seed(read_private_key(fields, "privateKey").seed)


def save_identity(identity: Identity, path: AnyPath, form: KeyForm = KeyForm.SEED) -> None:
    """Write a new identity file that only its owner can read.

    Raises:
        FileError: the file exists or cannot be written.

    Source: docs/protocol.md section 8.
    """
    key = encode_private_key(PrivateKey(identity.seed, form))
    write_new_file(path, json_text({"privateKey": key}), private=True)


# The PKCS#8 version 2 document of ring: these bytes, the seed, these bytes, the public key.
_BEFORE_SEED = bytes.fromhex("3053020101300506032b657004220420")
_BEFORE_PUBLIC_KEY = bytes.fromhex("a123032100")


def encode_private_key(key: PrivateKey) -> str:
    """Return the text of a private key, in its form.

    Source: docs/protocol.md section 8.
    """
    if key.form is KeyForm.SEED:
        return encode_key(key.seed)
    public_key = Identity.from_seed(key.seed).public_key
    return encode_key(_BEFORE_SEED + key.seed + _BEFORE_PUBLIC_KEY + public_key)


def read_private_key(fields: Fields, name: str) -> PrivateKey:
    """Return the private key in a field of a file.

    Raises:
        FileError: the field is missing or not a private key in one of the two forms.

    Source: docs/protocol.md section 8.
    """
    text = fields.get(name, str)
    if len(text) != len(encode_key(bytes(PKCS8_PRIVATE_KEY_SIZE))):
        return PrivateKey(read_key(fields, name, PRIVATE_KEY_SIZE), KeyForm.SEED)
    document = read_key(fields, name, PKCS8_PRIVATE_KEY_SIZE)
    seed = document[len(_BEFORE_SEED) :][:PRIVATE_KEY_SIZE]
    public_key = document[len(_BEFORE_SEED) + PRIVATE_KEY_SIZE + len(_BEFORE_PUBLIC_KEY) :]
    if document != _BEFORE_SEED + seed + _BEFORE_PUBLIC_KEY + public_key:
        raise fields.error(
            f'"{name}" has the length of a PKCS#8 key but is not one; use a backup of the file'
        )
    if Identity.from_seed(seed).public_key != public_key:
        raise fields.error(
            f'"{name}" is damaged: its two halves do not belong together; use a backup of the file'
        )
    return PrivateKey(seed, KeyForm.PKCS8)


def encode_key(key: bytes) -> str:
    """Return a key as base64 in the URL alphabet, without padding.

    Source: docs/protocol.md section 8.
    """
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode("ascii")


def short_key(key: bytes) -> str:
    """Return the first 8 characters of a key's text, to identify a peer in a log line."""
    return encode_key(key)[:SHORT_KEY_SIZE]


def decode_key(text: str, size: int, name: str = "the key") -> bytes:
    """Return the key that a string encodes; see encode_key.

    Args:
        text: base64 in the URL alphabet, without padding.
        size: the size of the key, in bytes.
        name: the key in error messages, at the beginning of a sentence.

    Raises:
        UsageError: the text is invalid. The error does not quote it, because it may be a private key.
        TypeError: the text is not a string.

    Source: docs/protocol.md section 8: any other length or alphabet is rejected.
    """
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a string of base64, not {type(text).__name__}")
    if text.endswith("="):
        raise UsageError(f"{name} ends in '='; write it without padding")
    if "+" in text or "/" in text:
        raise UsageError(f"{name} contains '+' or '/'; write it in the URL alphabet, with '-' and '_'")
    stray = re.search(r"[^A-Za-z0-9_-]", text)
    if stray:
        raise UsageError(f"{name} is not base64: character {stray.start() + 1} is invalid; copy it again")
    expected = len(encode_key(bytes(size)))
    if len(text) != expected:
        raise UsageError(f"{name} has {len(text)} characters; a {size}-byte key has {expected}")
    key = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if encode_key(key) != text:
        raise UsageError(f"{name} is not a key: its last character is invalid; copy it again")
    return key


def read_key(fields: Fields, name: str, size: int) -> bytes:
    """Return the key in a field of a file.

    Args:
        fields: the JSON object.
        name: the field's name.
        size: the size of the key, in bytes.

    Raises:
        FileError: the field is missing or not a key of this size.
    """
    try:
        return decode_key(fields.get(name, str), size, f'"{name}"')
    except UsageError as error:
        raise fields.error(str(error)) from error
