"""One direction's key and the counter of its messages.

Source: section 5 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Union

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import SEAL_NONCE_SIZE, SEAL_OVERHEAD
from offset_common.errors import SealError

Buffer = Union[bytes, bytearray, memoryview]


class CipherState:
    """Seals, or opens, the messages of one direction in their order.

    Args:
        key: 32 bytes.
        counter: the number of messages that went under this key before.
    """

    __slots__ = ("aead", "counter", "key")

    def __init__(self, key: bytes, counter: int = 0) -> None:
        self.key = key
        self.counter = counter
        self.aead = ChaCha20Poly1305(key)

    def next_nonce(self) -> bytes:
        """Return the 12 bytes that the next message must carry in front."""
        return self.counter.to_bytes(SEAL_NONCE_SIZE, "little")

    def seal(self, plaintext: Buffer) -> bytes:
        """Return nonce, ciphertext and tag of the next message."""
        nonce = self.next_nonce()
        self.counter += 1
        return nonce + self.aead.encrypt(nonce, plaintext, None)

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
            plaintext = self.aead.decrypt(nonce, payload[SEAL_NONCE_SIZE:], None)
        except InvalidTag:
            raise SealError(f"message {self.counter} does not open under its key") from None
        self.counter += 1
        return plaintext
