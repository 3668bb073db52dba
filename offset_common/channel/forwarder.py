"""The fast path: re-encrypt the messages of one connection for another, a batch at a time.

The slow path is `Connection.receive_frame` and `Connection.send`: decrypt, unpack twice, pack twice,
encrypt. Most frames need less. If `classify` recognizes the decrypted bytes as a well-formed message, the
same bytes are encrypted under the other key, in buffers that are reused. Released nodes add 32 KiB of
padding to a message on average; it is trimmed. Everything else (keepalives, rekeys, other layouts, faults)
takes the slow path.

A test checks that both paths deliver the same payloads on every kind of input.
"""

from __future__ import annotations

import os
import sys
from struct import Struct
from typing import Callable, NamedTuple, Optional

from cryptography.exceptions import InvalidTag

from offset_common.channel.classify import UNCHANGED, Content, classify
from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.channel.handshake import RandomBytes
from offset_common.constants import (
    ENCRYPTION_OVERHEAD,
    FRAME_LENGTH_SIZE,
    MAX_FRAME_SIZE,
    MAX_PADDING_SENT,
    NONCE_SIZE,
)
from offset_common.errors import PeerError
from offset_common.wire.capnp import segment_table
from offset_common.wire.frames import frame_end
from offset_common.wire.messages import packed_start
from offset_common.wire.packing import WORD_SIZE, pack_literal, pack_word

MAX_OUTPUT = 768 * 1024  # bytes after which a batch stops, because the slow path can enlarge messages
MAX_SLOW_SECONDS = 0.0001  # seconds on the slow path after which a batch stops

_HEADER = Struct(f">Q{NONCE_SIZE}s")
_HEADER_SIZE = FRAME_LENGTH_SIZE + NONCE_SIZE
_MIN_FRAME = FRAME_LENGTH_SIZE + ENCRYPTION_OVERHEAD
_MAX_PLAINTEXT = MAX_FRAME_SIZE - ENCRYPTION_OVERHEAD
_PADDINGS_AT_ONCE = 32  # drawn by one system call, which takes 1 to 2 us


class ForwardResult(NamedTuple):
    """The result of one batch.

    Args:
        taken: bytes of complete frames consumed from the input.
        frames: the number of these frames.
        output: frames for the other peer; valid until the next call.
        more: whether complete frames remain, because the batch reached a limit.
        error: the peer's protocol error after `taken` bytes, or None.
    """

    taken: int
    frames: int
    output: memoryview
    more: bool
    error: Optional[PeerError]


class Forwarder:
    """Forwards batches of frames through buffers that all connections share.

    Args:
        largest_input: the maximum size of one call's input, in bytes.
        clock: seconds; measures the slow path.
        random_bytes: the source of padding.
    """

    def __init__(
        self, largest_input: int, clock: Callable[[], float], random_bytes: RandomBytes = os.urandom
    ) -> None:
        self._clock = clock
        self._padding = _PaddingSource(random_bytes)
        self._plain = bytearray(MAX_FRAME_SIZE)
        self._plain_view = memoryview(self._plain)
        # The fast path never enlarges a frame; a batch stops once its output exceeds MAX_OUTPUT.
        self._out = memoryview(bytearray(max(largest_input, MAX_OUTPUT) + 2 * MAX_FRAME_SIZE))

    def forward(
        self,
        source: Connection,
        sink: Connection,
        data: memoryview,
        now: float,
        max_frames: int = sys.maxsize,
        max_slow_frame: int = sys.maxsize,
    ) -> ForwardResult:
        """Re-encrypt the messages that `source` received for the peer of `sink`.

        Answers to the peer of `source` are in `source.data_to_send()` afterwards.

        Args:
            source: established.
            sink: established, with nothing left to send.
            data: frames that `source` received; the last one may be incomplete.
            now: seconds.
            max_frames: the maximum number of frames in the batch, at least 1.
            max_slow_frame: the maximum size in bytes of a frame on the slow path; the batch stops before a
                larger one.
        """
        taken = filled = frames = 0
        slow_seconds = 0.0
        more = False
        error: Optional[PeerError] = None
        try:
            while True:
                fast, taken, filled = self._forward_fast(
                    source, sink, data, taken, filled, max_frames - frames
                )
                frames += fast
                end = frame_end(data, taken, MAX_FRAME_SIZE)
                if not end:
                    break
                if (
                    frames >= max_frames
                    or filled > MAX_OUTPUT
                    or slow_seconds > MAX_SLOW_SECONDS
                    or end - taken > max_slow_frame
                ):
                    more = True
                    break
                started = self._clock()
                filled += self._forward_slow(
                    source, sink, bytes(data[taken + FRAME_LENGTH_SIZE : end]), filled, now
                )
                slow_seconds += self._clock() - started
                taken = end
                frames += 1
        except PeerError as fault:
            source.fail()
            # The traceback would keep the local variables alive until the next garbage collection.
            fault.__traceback__ = fault.__context__ = None
            error = fault
        if frames:
            source.mark_received(now)
        if filled:
            sink.mark_sent(now)
        return ForwardResult(taken, frames, self._out[:filled], more, error)

    def _forward_fast(
        self, source: Connection, sink: Connection, data: memoryview, start: int, fill: int, max_frames: int
    ) -> tuple[int, int, int]:
        """Forward messages from `start` on, up to the first frame that needs the slow path.

        Returns: the number of messages, and the positions reached in `data` and in the output.
        """
        channel = source.secure_channel
        if channel.old_receiving is not None or fill > MAX_OUTPUT:
            return 0, start, fill
        receiving, sending = channel.receiving, sink.secure_channel.sending
        decrypt_into, encrypt_into = receiving.new_aead().decrypt_into, sending.new_aead().encrypt_into
        unpack_header, pack_header = _HEADER.unpack_from, _HEADER.pack_into
        packed, packed_view, out = self._plain, self._plain_view, self._out
        last = len(data)
        received, sent = receiving.counter, sending.counter
        last_received = received + max_frames
        while received < last_received and last - start >= _MIN_FRAME:
            length, nonce = unpack_header(data, start)
            end = start + FRAME_LENGTH_SIZE + length
            size = length - ENCRYPTION_OVERHEAD
            if (
                end > last
                or not 0 <= size <= _MAX_PLAINTEXT
                or nonce != received.to_bytes(NONCE_SIZE, "little")
            ):
                break
            plaintext = packed_view[:size]
            try:
                decrypt_into(nonce, data[start + _HEADER_SIZE : end], None, plaintext)
            except InvalidTag:
                break
            content = classify(packed, size)
            if content is None:
                break
            if content is not UNCHANGED:
                trimmed = self._padding.pad(content)
                if len(trimmed) < size:  # not if the padding was zero bytes, packed to almost nothing
                    plaintext = memoryview(trimmed)
                    length = len(trimmed) + ENCRYPTION_OVERHEAD
            nonce = sent.to_bytes(NONCE_SIZE, "little")
            pack_header(out, fill, length, nonce)
            out_end = fill + FRAME_LENGTH_SIZE + length
            encrypt_into(nonce, plaintext, None, out[fill + _HEADER_SIZE : out_end])
            received += 1
            sent += 1
            start, fill = end, out_end
        frames = received - receiving.counter
        if frames:
            receiving.advance(frames)
            sending.advance(frames)
        return frames, start, fill

    def _forward_slow(
        self, source: Connection, sink: Connection, payload: bytes, fill: int, now: float
    ) -> int:
        """Forward one frame of any kind; return the size of the output."""
        event = source.receive_frame(payload, now)
        if not isinstance(event, MessageReceived):
            return 0
        # If its zero bytes arrived packed, send them packed: the output stays about as large as the input.
        sink.send(event.data, now, sparse=len(event.data) > len(payload))
        frame = sink.data_to_send()
        self._out[fill : fill + len(frame)] = frame
        return len(frame)


class _PaddingSource:
    """Writes messages with 0 to 255 bytes of random padding.

    Args:
        random_bytes: the source of the padding.
    """

    def __init__(self, random_bytes: RandomBytes) -> None:
        self._random_bytes = random_bytes
        self._drawn = b""
        self._at = 0

    def pad(self, content: Content) -> bytes:
        """Return the packed ChannelMessage with fresh padding and this content."""
        if self._at == len(self._drawn):
            self._drawn = self._random_bytes(_PADDINGS_AT_ONCE * (1 + MAX_PADDING_SENT))
            self._at = 0
        at = self._at
        self._at += 1 + MAX_PADDING_SENT
        size = self._drawn[at]
        padding = self._drawn[at + 1 : at + 1 + size]
        words = 3 + (size + WORD_SIZE - 1) // WORD_SIZE + content.words
        table = pack_word(segment_table(words))
        return b"".join((table, packed_start(size), pack_literal(padding), content.packed))
