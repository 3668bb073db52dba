"""The input: plaintexts as released nodes encode them, and as our own encoder does.

Released nodes build each message in a first segment of 1,024 words, the padding set before the content;
pycapnp, told the same, gives the same bytes, as tests/test_bench.py holds against recorded messages.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import FRAME_LENGTH_SIZE, SEAL_NONCE_SIZE
from offset_common.errors import OperatorError
from offset_common.wire.messages import ChannelMessage, KaMessage

FIRST_SEGMENT_WORDS = 1024  # of the original's message builder
DISTINCT_MESSAGES = 257  # how many different plaintexts go round; a prime, so that no batch repeats
SEED = 4  # of the padding's sizes, so that every run has the same bytes to carry

Encoder = Callable[[bytes, bytes], bytes]
"""From a payload and its padding to the plaintext of a sealed message."""


class Plaintext(NamedTuple):
    """A message as it is sealed, and what it carries."""

    payload: bytes
    encoded: bytes


@functools.cache
def _schema() -> Any:
    try:
        import capnp
    except ImportError:
        raise OperatorError("the benchmark needs pycapnp: pip install pycapnp") from None
    capnp.remove_import_hook()
    return capnp.load(str(Path(__file__).with_name("schema.capnp")))


def encode_as_released(payload: bytes, padding: bytes) -> bytes:
    """Encode a message as released nodes do."""
    keepalive = _schema().KaMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    keepalive.message = payload
    message = _schema().ChannelMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    message.randPadding = padding
    message.init("content").user = keepalive.to_bytes_packed()
    encoded: bytes = message.to_bytes_packed()
    return encoded


def encode_as_own(payload: bytes, padding: bytes) -> bytes:
    """Encode a message as this project does."""
    return ChannelMessage(padding, KaMessage(payload).encode()).encode()


def encode_keepalive(padding: bytes) -> bytes:
    """Encode a sign of life as this project does."""
    return ChannelMessage(padding, KaMessage(None).encode()).encode()


def make_plaintexts(encode: Encoder, size: int, max_padding: int) -> list[Plaintext]:
    """Make different messages of one size.

    Args:
        encode: the encoder.
        size: bytes of each payload; random, as what tunnels carry is sealed itself.
        max_padding: the most bytes of random padding.
    """
    sizes = random.Random(SEED)
    count = max(8, min(DISTINCT_MESSAGES, (16 << 20) // (size + max_padding)))
    plaintexts = []
    for _ in range(count):
        payload = os.urandom(size)
        plaintexts.append(Plaintext(payload, encode(payload, os.urandom(sizes.randint(0, max_padding)))))
    return plaintexts


def seal_frames(key: bytes, counter: int, plaintexts: Sequence[Plaintext], count: int) -> bytearray:
    """Seal messages, the plaintexts going round, into the frames of a stream.

    Args:
        key: 32 bytes.
        counter: the number of messages that went under this key before.
        plaintexts: what to seal.
        count: how many messages.
    """
    aead = ChaCha20Poly1305(key)
    frames = bytearray()
    for number in range(count):
        nonce = (counter + number).to_bytes(SEAL_NONCE_SIZE, "little")
        sealed = aead.encrypt(nonce, plaintexts[number % len(plaintexts)].encoded, None)
        frames += (SEAL_NONCE_SIZE + len(sealed)).to_bytes(FRAME_LENGTH_SIZE, "big") + nonce + sealed
    return frames
