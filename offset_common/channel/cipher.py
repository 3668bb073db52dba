"""One direction's key and the counter of its messages.

Source: section 5 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Any, Callable, Optional, Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import SEAL_NONCE_SIZE, SEAL_OVERHEAD
from offset_common.errors import SealError

Buffer = Union[bytes, bytearray, memoryview]


class _CopyingAead:
    """ChaCha20-Poly1305 with the calls that work in place, for a cryptography that has none.

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
    """Seals, or opens, the messages of one direction in their order.

    Args:
        key: 32 bytes.
        counter: the number of messages that went under this key before.
    """

    __slots__ = ("counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter

    @property
    def aead(self) -> Any:
        """The cipher under the key. It is made anew each time: that takes 1 us; kept, it takes 2 KB."""
        return _new_aead(self.key)

    def export_state(self) -> list[Any]:
        """Return key and counter as JSON can carry them."""
        return [self.key.hex(), self.counter]

    @classmethod
    def import_state(cls, state: list[Any]) -> CipherState:
        """Go on where `export_state` left off."""
        return cls(bytes.fromhex(state[0]), state[1])

    def next_nonce(self) -> bytes:
        """Return the 12 bytes that the next message must carry in front."""
        return self.counter.to_bytes(SEAL_NONCE_SIZE, "little")

    def seal(self, plaintext: Buffer) -> bytes:
        """Return nonce, ciphertext and tag of the next message."""
        nonce = self.next_nonce()
        self.counter += 1
        sealed: bytes = self.aead.encrypt(nonce, plaintext, None)
        return nonce + sealed

    def open(self, payload: bytes) -> bytes:
        """Return the plaintext of the next message.

        Raises:
            SealError: too short, not the next one, or not sealed under this key. The state is as before.
        """
        if len(payload) < SEAL_OVERHEAD:
            raise SealError(f"a sealed message of {len(payload)} bytes, where {SEAL_OVERHEAD} is the least")
        nonce = payload[:SEAL_NONCE_SIZE]
        if nonce != self.next_nonce():
            raise SealError(f"not message {self.counter} of its key")
        try:
            plaintext: bytes = self.aead.decrypt(nonce, payload[SEAL_NONCE_SIZE:], None)
        except InvalidTag:
            raise SealError(f"message {self.counter} does not open under its key") from None
        self.counter += 1
        return plaintext
