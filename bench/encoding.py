"""Make the input: plaintexts as released nodes encode them, and as our own encoder does.

Released nodes build each message in a first segment of 1,024 words and set the padding before the content.
pycapnp, used the same way, produces the same bytes; tests/test_bench.py compares them with recorded messages.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Callable, NamedTuple

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from offset_common.constants import FRAME_LENGTH_SIZE, NONCE_SIZE
from offset_common.errors import OperatorError
from offset_common.wire.messages import ChannelMessage, KaMessage

FIRST_SEGMENT_WORDS = 1024  # words: the original's message builder allocates them
DISTINCT_MESSAGES = 257  # plaintexts used in turn; a prime, so that no batch of frames repeats
SEED = 4  # for the sizes of the padding, so that every run carries the same number of bytes

Encoder = Callable[[bytes, bytes], bytes]
"""Encodes a payload and its padding as the plaintext of a sealed message."""


class Plaintext(NamedTuple):
    """A message before it is sealed, and its payload."""

    payload: bytes
    encoded: bytes


@functools.cache
def _schema() -> Any:
    try:
        import capnp
    except ImportError:
        raise OperatorError("the benchmark needs pycapnp: .venv/bin/pip install pycapnp") from None
    capnp.remove_import_hook()
    return capnp.load(str(Path(__file__).with_name("schema.capnp")))


def encode_as_released(payload: bytes, padding: bytes) -> bytes:
    """Return a message as released nodes encode it."""
    keepalive = _schema().KaMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    keepalive.message = payload
    message = _schema().ChannelMessage.new_message(num_first_segment_words=FIRST_SEGMENT_WORDS)
    message.randPadding = padding
    message.init("content").user = keepalive.to_bytes_packed()
    encoded: bytes = message.to_bytes_packed()
    return encoded


def encode_as_own(payload: bytes, padding: bytes) -> bytes:
    """Return a message as this project encodes it."""
    return ChannelMessage(padding, KaMessage(payload).encode()).encode()


def encode_keepalive(padding: bytes) -> bytes:
    """Return a keepalive as this project encodes it."""
    return ChannelMessage(padding, KaMessage(None).encode()).encode()


def make_plaintexts(encode: Encoder, size: int, max_padding: int) -> list[Plaintext]:
    """Return different messages of one size, with random payloads: real payloads are encrypted.

    Args:
        encode: the encoder.
        size: the size of each payload, in bytes.
        max_padding: the maximum size of the random padding, in bytes.
    """
    sizes = random.Random(SEED)
    count = max(8, min(DISTINCT_MESSAGES, (16 << 20) // (size + max_padding)))
    plaintexts = []
    for _ in range(count):
        payload = os.urandom(size)
        plaintexts.append(Plaintext(payload, encode(payload, os.urandom(sizes.randint(0, max_padding)))))
    return plaintexts


def seal_frames(key: bytes, counter: int, plaintexts: Sequence[Plaintext], count: int) -> bytearray:
    """Return messages as sealed frames, reusing the plaintexts in turn.

    Args:
        key: 32 bytes.
        counter: the number of messages already sealed with this key.
        plaintexts: the messages to seal.
        count: the number of frames.
    """
    aead = ChaCha20Poly1305(key)
    frames = bytearray()
    for number in range(count):
        nonce = (counter + number).to_bytes(NONCE_SIZE, "little")
        sealed = aead.encrypt(nonce, plaintexts[number % len(plaintexts)].encoded, None)
        frames += (NONCE_SIZE + len(sealed)).to_bytes(FRAME_LENGTH_SIZE, "big") + nonce + sealed
    return frames
