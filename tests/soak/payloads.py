"""The messages of the nodes, made from a seed, so that they can be checked without being stored."""

from __future__ import annotations

import hashlib
import random
from struct import Struct

from tests.support.channel import WrongAnswer

POOL_SIZE = 1 << 21
LARGEST = (1 << 20) - 64  # bytes of a whole message: nearly the largest that the protocol allows

_HEAD = Struct(">QQ")  # stream, counter
_OFFSET = Struct(">QQ")


class WrongPayload(WrongAnswer):
    """A message arrived that was not sent, or not in order."""


class Payloads:
    """Makes and recognizes messages.

    Each starts with the number of its stream, which is one direction of one tunnel, and its place
    in the stream; its body follows from these and the seed.

    Args:
        seed: of the run.
    """

    def __init__(self, seed: int) -> None:
        source = random.Random(f"{seed}/payloads")
        # Random bytes, zeros, ones and mostly zeros: packing treats each differently.
        parts = [source.randbytes(POOL_SIZE // 2), bytes(POOL_SIZE // 8), b"\xff" * (POOL_SIZE // 8)]
        parts.append(bytes(source.choice((0, 0, 0, 7)) for _ in range(POOL_SIZE // 4)))
        pool = b"".join(parts)
        self._pool = memoryview(pool + pool[:LARGEST])
        self._key = f"{seed}".encode()

    def make(self, stream: int, counter: int, size: int) -> bytes:
        """Return message `counter` of `stream`, with a body of `size` bytes."""
        return b"".join((_HEAD.pack(stream, counter), self._body(stream, counter, size)))

    def recognize(self, message: bytes) -> tuple[int, int]:
        """Return the stream and the counter of a message.

        Raises:
            WrongPayload: it differs from the message that was made.
        """
        if len(message) < _HEAD.size:
            raise WrongPayload(f"a message of {len(message)} bytes was never sent")
        stream, counter = _HEAD.unpack_from(message)
        if self._body(stream, counter, len(message) - _HEAD.size) != memoryview(message)[_HEAD.size :]:
            raise WrongPayload(f"message {counter} of stream {stream} has another content than was sent")
        return stream, counter

    def _body(self, stream: int, counter: int, size: int) -> memoryview:
        digest = hashlib.blake2b(_HEAD.pack(stream, counter), key=self._key[:64], digest_size=16).digest()
        offset = _OFFSET.unpack(digest)[0] % POOL_SIZE
        return self._pool[offset : offset + size]
