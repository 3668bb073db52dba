"""The hot path: messages of one connection sealed again for another, a batch at a time.

The plain way is `Connection.receive_frame` here and `Connection.send` there: open, unpack twice,
pack twice, seal. Most frames need less: once a glance at the opened bytes has told that they are a
well-formed message (glance.py), the same bytes are sealed under the other key, in buffers that are
used again. Whatever is not that (keepalives, rekeys, other layouts, faults) goes the plain way.

A test holds that both ways deliver the same payloads on every kind of input.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Callable, NamedTuple, Optional

from cryptography.exceptions import InvalidTag

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.channel.glance import UNKNOWN, find_message
from offset_common.channel.handshake import RandomBytes
from offset_common.channel.repadding import Repadder
from offset_common.constants import (
    FRAME_LENGTH_SIZE,
    MAX_FRAME_SIZE,
    SEAL_NONCE_SIZE,
    SEAL_OVERHEAD,
)
from offset_common.errors import PeerError
from offset_common.wire.frames import frame_end
from offset_common.wire.messages import KaMessage
from offset_common.wire.packing import pack_sparse

MOST_OUTPUT = 768 * 1024  # bytes after which a batch stops: packed zeros can become much more than they were
MOST_PLAIN_SECONDS = 0.0005  # of the plain way after which a batch stops
LARGEST_PADDING_KEPT = 768  # bytes; more is not worth sealing and sending again

_HEADER = Struct(f">Q{SEAL_NONCE_SIZE}s")
_HEADER_SIZE = FRAME_LENGTH_SIZE + SEAL_NONCE_SIZE
_SMALLEST = FRAME_LENGTH_SIZE + SEAL_OVERHEAD
_LARGEST = MAX_FRAME_SIZE - SEAL_OVERHEAD  # bytes of what is sealed


class Resealed(NamedTuple):
    """What a batch came to.

    Args:
        taken: bytes of the input that were whole frames and are done with.
        frames: how many those were.
        output: what to send to the other peer; good until the next batch.
        stopped: whether whole frames may be left, because output or time is enough for one batch.
        deferred: whether they are left because the next one is costly.
        plain_frames: how many took the plain way.
        plain_size: bytes of those.
        plain_seconds: what those took.
        error: the fault of the peer that sent the input, after `taken`; or None.
    """

    taken: int
    frames: int
    output: memoryview
    stopped: bool
    deferred: bool
    plain_frames: int
    plain_size: int
    plain_seconds: float
    error: Optional[PeerError]


class Resealer:
    """Scratch buffers for batches, one at a time.

    Args:
        largest_input: bytes of frames that may be given at once.
        clock: seconds; to measure what the plain way takes.
        random_bytes: the source of padding.
    """

    def __init__(
        self, largest_input: int, clock: Callable[[], float], random_bytes: RandomBytes = os.urandom
    ) -> None:
        self._clock = clock
        self._plain = bytearray(MAX_FRAME_SIZE)
        self._plain_view = memoryview(self._plain)
        # Frames are resealed at their length, or less; what the plain way makes larger ends at MOST_OUTPUT.
        self._out = memoryview(bytearray(max(largest_input, MOST_OUTPUT) + 2 * MAX_FRAME_SIZE))
        self._repadder = Repadder(random_bytes)

    def reseal(
        self,
        source: Connection,
        sink: Connection,
        data: memoryview,
        now: float,
        allow_costly: bool = True,
    ) -> Resealed:
        """Seal the messages in the whole frames of `data`, which `source` received, for the peer of `sink`.

        What `source` has to answer its own peer waits in `source`.

        Args:
            source: established.
            sink: established, with nothing that waits to be sent.
            data: frames as they came; the last one may be incomplete.
            now: seconds.
            allow_costly: whether a frame may be taken that is costly to take apart.
        """
        start = fill = frames = plain_frames = plain_size = 0
        plain_seconds = 0.0
        stopped = deferred = False
        error: Optional[PeerError] = None
        try:
            while len(data) - start >= FRAME_LENGTH_SIZE:
                if fill > MOST_OUTPUT:
                    stopped = True
                    break
                count, taken, filled = self._reseal_messages(source, sink, data, start, fill)
                if count:
                    frames += count
                    source.channel.last_received = sink.channel.last_sent = now
                    start, fill = start + taken, fill + filled
                    continue
                end = frame_end(data, start, MAX_FRAME_SIZE)
                if end > len(data):
                    break
                if plain_seconds > MOST_PLAIN_SECONDS:
                    stopped = True
                    break
                payload = bytes(data[start + FRAME_LENGTH_SIZE : end])
                if not allow_costly and source.is_costly(payload):
                    stopped = deferred = True
                    break
                started = self._clock()
                try:
                    fill += self._plain_way(source, sink, payload, fill, now)
                finally:
                    plain_frames += 1
                    plain_size += end - start
                    plain_seconds += self._clock() - started
                start = end
                frames += 1
        except PeerError as fault:
            source.channel.fail()
            # Its traceback would keep this frame, and all that was unpacked, until a search for cycles.
            fault.__traceback__ = fault.__context__ = None
            error = fault
        return Resealed(
            start, frames, self._out[:fill], stopped, deferred, plain_frames, plain_size, plain_seconds, error
        )

    def _reseal_messages(
        self, source: Connection, sink: Connection, data: memoryview, start: int, fill: int
    ) -> tuple[int, int, int]:
        """Reseal frames from `start` on while they are messages; return frames, bytes taken and filled."""
        channel = source.secure_channel
        if channel.old_receiving is not None:
            return 0, 0, 0
        receiving, sending = channel.receiving, sink.secure_channel.sending
        open_into, seal_into = receiving.aead.decrypt_into, sending.aead.encrypt_into
        unpack_header, pack_header = _HEADER.unpack_from, _HEADER.pack_into
        plain_bytes, plain_view, out = self._plain, self._plain_view, self._out
        begin, first_fill, last = start, fill, len(data)
        opened, sealed = receiving.counter, sending.counter
        while last - start >= _SMALLEST:
            length, nonce = unpack_header(data, start)
            end = start + FRAME_LENGTH_SIZE + length
            size = length - SEAL_OVERHEAD
            if end > last or not 0 <= size <= _LARGEST or nonce != opened.to_bytes(SEAL_NONCE_SIZE, "little"):
                break
            plain = plain_view[:size]
            try:
                open_into(nonce, data[start + _HEADER_SIZE : end], None, plain)
            except InvalidTag:
                break
            padding, content = find_message(plain_bytes, size, LARGEST_PADDING_KEPT)
            if padding == UNKNOWN:
                break
            if content is not None:
                smaller = self._repadder.write(content)
                if len(smaller) < size:  # else it came with its zeros packed away, and goes so
                    plain = memoryview(smaller)
                    length = len(smaller) + SEAL_OVERHEAD
            nonce = sealed.to_bytes(SEAL_NONCE_SIZE, "little")
            pack_header(out, fill, length, nonce)
            filled = fill + FRAME_LENGTH_SIZE + length
            seal_into(nonce, plain, None, out[fill + _HEADER_SIZE : filled])
            opened += 1
            sealed += 1
            start, fill = end, filled
        frames = opened - receiving.counter
        receiving.counter, sending.counter = opened, sealed
        return frames, start - begin, fill - first_fill

    def _plain_way(self, source: Connection, sink: Connection, payload: bytes, fill: int, now: float) -> int:
        """Take one frame as it may be; return how many bytes were filled."""
        event = source.receive_frame(payload, now)
        if not isinstance(event, MessageReceived):
            return 0
        if len(event.data) > len(payload):
            # It came with its zeros packed away, and goes so: nobody gets much more than the other one sent.
            sink.secure_channel.send(KaMessage(event.data).encode(pack_sparse))
            sink.channel.last_sent = now
        else:
            sink.send(event.data, now)
        frame = sink.data_to_send()
        self._out[fill : fill + len(frame)] = frame
        return len(frame)
