"""One direction's key and the counter of its messages.

Source: section 5 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import ENCRYPTION_OVERHEAD, NONCE_SIZE
from offset_common.errors import DecryptionError

Buffer = Union[bytes, bytearray, memoryview]


class _CopyingAead:
    """ChaCha20-Poly1305 with the calls that work in place, for versions of cryptography that lack them.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)

    def encrypt(self, nonce: bytes, data: Buffer, associated_data: Optional[bytes]) -> bytes:
        return self._aead.encrypt(nonce, bytes(data), associated_data)

    def decrypt(self, nonce: bytes, data: Buffer, associated_data: Optional[bytes]) -> bytes:
        return self._aead.decrypt(nonce, bytes(data), associated_data)

    def encrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: Optional[bytes], buf: memoryview
    ) -> None:
        buf[:] = self.encrypt(nonce, data, associated_data)

    def decrypt_into(
        self, nonce: bytes, data: Buffer, associated_data: Optional[bytes], buf: memoryview
    ) -> None:
        buf[:] = self.decrypt(nonce, data, associated_data)


# The lean class is there since cryptography 47.0; Debian 12 has 38.0.
_new_aead: Callable[[bytes], Any] = (
    ChaCha20Poly1305 if hasattr(ChaCha20Poly1305, "decrypt_into") else _CopyingAead
)


class CipherState:
    """Encrypts, or decrypts, the messages of one direction in their order.

    Args:
        key: 32 bytes.
        counter: how many messages this key has encrypted before.
    """

    __slots__ = ("counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter

    @property
    def aead(self) -> Any:
        """The cipher under the key, made anew each time: that takes 1 us; keeping it would take 2 KB."""
        return _new_aead(self.key)

    def export_state(self) -> list[Any]:
        """Return key and counter in a form for JSON."""
        return [self.key.hex(), self.counter]

    @classmethod
    def import_state(cls, state: list[Any]) -> CipherState:
        """Continue where `export_state` left off."""
        return cls(bytes.fromhex(state[0]), state[1])

    def next_nonce(self) -> bytes:
        """Return the 12 bytes that the next message must begin with."""
        return self.counter.to_bytes(NONCE_SIZE, "little")

    def advance(self, count: int) -> None:
        """Count messages that were encrypted, or decrypted, with `aead` itself."""
        self.counter += count

    def encrypt(self, plaintext: Buffer) -> bytes:
        """Return nonce, ciphertext and tag of the next message."""
        nonce = self.next_nonce()
        self.counter += 1
        encrypted: bytes = self.aead.encrypt(nonce, plaintext, None)
        return nonce + encrypted

    def decrypt(self, payload: bytes) -> bytes:
        """Return the plaintext of the next message.

        Raises:
            DecryptionError: too short, not the next one, or not encrypted under this key. The state
                is as before.
        """
        if len(payload) < ENCRYPTION_OVERHEAD:
            raise DecryptionError(
                f"an encrypted message of {len(payload)} bytes; the least is {ENCRYPTION_OVERHEAD}"
            )
        nonce = payload[:NONCE_SIZE]
        if nonce != self.next_nonce():
            raise DecryptionError(f"not message {self.counter} of its key")
        try:
            plaintext: bytes = self.aead.decrypt(nonce, payload[NONCE_SIZE:], None)
        except InvalidTag:
            raise DecryptionError(f"message {self.counter} does not decrypt under its key") from None
        self.counter += 1
        return plaintext
