"""The key of one direction, and the counter of its messages.

Source: section 5 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import ENCRYPTION_OVERHEAD, NONCE_SIZE
from offset_common.errors import DecryptionError
from offset_common.wire.frames import Buffer


class _CopyingAead:
    """ChaCha20-Poly1305 with the in-place methods, for versions of cryptography that lack them.

    Args:
        key: 32 bytes.
    """

    def __init__(self, key: bytes) -> None:
        aead = ChaCha20Poly1305(key)
        self.encrypt, self.decrypt = aead.encrypt, aead.decrypt

    def encrypt_into(self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview) -> None:
        buf[:] = self.encrypt(nonce, bytes(data), associated_data)

    def decrypt_into(self, nonce: bytes, data: Buffer, associated_data: None, buf: memoryview) -> None:
        buf[:] = self.decrypt(nonce, bytes(data), associated_data)


# cryptography has the in-place methods since 47.0; Debian 12 has 38.0.
_new_aead: Callable[[bytes], Any] = (
    ChaCha20Poly1305 if hasattr(ChaCha20Poly1305, "decrypt_into") else _CopyingAead
)


class CipherState:
    """Encrypts or decrypts the messages of one direction, in order.

    Args:
        key: 32 bytes.
        counter: the number of messages already encrypted under this key.
    """

    __slots__ = ("counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter

    def new_aead(self) -> Any:
        """Return a new cipher object for the key: making one takes 1 us, keeping one would take 2 KB."""
        return _new_aead(self.key)

    def export_state(self) -> list[Any]:
        """Return key and counter as values for JSON."""
        return [self.key.hex(), self.counter]

    @classmethod
    def import_state(cls, state: list[Any]) -> CipherState:
        """Restore what `export_state` returned."""
        return cls(bytes.fromhex(state[0]), state[1])

    def next_nonce(self) -> bytes:
        """Return the 12 bytes with which the next message must start."""
        return self.counter.to_bytes(NONCE_SIZE, "little")

    def advance(self, count: int) -> None:
        """Count messages that were encrypted or decrypted with `new_aead()` directly."""
        self.counter += count

    def encrypt(self, plaintext: bytes) -> bytes:
        """Encrypt the next message; return nonce, ciphertext and tag."""
        nonce = self.next_nonce()
        self.counter += 1
        encrypted: bytes = self.new_aead().encrypt(nonce, plaintext, None)
        return nonce + encrypted

    def decrypt(self, payload: bytes) -> bytes:
        """Decrypt the next message.

        Raises:
            DecryptionError: the payload is too short, is not the next message, or is not encrypted under
                this key. The state stays unchanged.
        """
        if len(payload) < ENCRYPTION_OVERHEAD:
            raise DecryptionError(
                f"an encrypted message of {len(payload)} bytes; the minimum is {ENCRYPTION_OVERHEAD}"
            )
        nonce = payload[:NONCE_SIZE]
        if nonce != self.next_nonce():
            raise DecryptionError(f"the nonce is not {self.counter}, the next of its key")
        try:
            plaintext: bytes = self.new_aead().decrypt(nonce, payload[NONCE_SIZE:], None)
        except InvalidTag:
            raise DecryptionError(f"message {self.counter} does not decrypt under its key") from None
        self.counter += 1
        return plaintext
