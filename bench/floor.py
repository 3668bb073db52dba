"""The floor: the cost of reading, decrypting, encrypting and writing frames, and nothing else.

One process with two sockets and reused buffers walks the length prefixes of each read, decrypts each frame
with the nonce it carries, encrypts it with another key and a counter, and sends all frames with one call. It
checks no order, parses nothing, and has no limits.
"""

from __future__ import annotations

import socket
from multiprocessing.connection import Connection as Pipe
from struct import Struct

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from bench.processes import Child, close_pipe_and_exit, cpu_seconds
from offset_common.constants import CHANNEL_KEY_SIZE, ENCRYPTION_OVERHEAD, FRAME_LENGTH_SIZE, NONCE_SIZE

OPENING_KEY = bytes(range(CHANNEL_KEY_SIZE))
SEALING_KEY = bytes(range(1, CHANNEL_KEY_SIZE + 1))
BUFFER_SIZE = 512 * 1024  # bytes: more than the largest frame that the floor carries
READ_SIZE = 256 * 1024  # bytes of one read; neither fewer nor more are faster

_LENGTH = Struct(">Q")
_HEAD = FRAME_LENGTH_SIZE + NONCE_SIZE


class Floor:
    """A floor process that forwards from `input` to `output` while the `with` block lasts."""

    def __enter__(self) -> Floor:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self._child = Child(_serve, server)
            self.input = socket.create_connection(server.getsockname())
            self.output = socket.create_connection(server.getsockname())
        for sock in (self.input, self.output):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._child.receive()
        return self

    def __exit__(self, *_: object) -> None:
        self.input.close()
        self.output.close()
        self._child.stop()

    def cpu_seconds(self) -> float:
        """Return the CPU time in seconds that the process has used so far."""
        return cpu_seconds([self._child.pid])


def _serve(pipe: Pipe, server: socket.socket) -> None:
    source, _ = server.accept()
    sink, _ = server.accept()
    for sock in (source, sink):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    forward = forward_in_place if hasattr(ChaCha20Poly1305, "encrypt_into") else forward_plainly
    pipe.send("ready")
    forward(source, sink)
    close_pipe_and_exit(pipe)


def forward_in_place(source: socket.socket, sink: socket.socket) -> None:
    """Forward frames from one socket to the other until the first one ends."""
    opening, sealing = ChaCha20Poly1305(OPENING_KEY), ChaCha20Poly1305(SEALING_KEY)
    read, written = bytearray(BUFFER_SIZE + READ_SIZE), bytearray(BUFFER_SIZE + READ_SIZE)
    read_view, written_view = memoryview(read), memoryview(written)
    plain_view = memoryview(bytearray(BUFFER_SIZE))
    kept = counter = 0
    while True:
        count = source.recv_into(read_view[kept : kept + READ_SIZE])
        if not count:
            return
        end = kept + count
        start = 0
        while end - start >= FRAME_LENGTH_SIZE:
            length = _LENGTH.unpack_from(read, start)[0]
            stop = start + FRAME_LENGTH_SIZE + length
            if stop > end:
                break
            sealed = start + _HEAD
            plain = plain_view[: length - ENCRYPTION_OVERHEAD]
            opening.decrypt_into(
                read_view[start + FRAME_LENGTH_SIZE : sealed], read_view[sealed:stop], None, plain
            )
            nonce = counter.to_bytes(NONCE_SIZE, "little")
            counter += 1
            _LENGTH.pack_into(written, start, length)
            written[start + FRAME_LENGTH_SIZE : sealed] = nonce
            sealing.encrypt_into(nonce, plain, None, written_view[sealed:stop])
            start = stop
        if start:
            sink.sendall(written_view[:start])
        kept = end - start
        read[:kept] = read[start:end]


def forward_plainly(source: socket.socket, sink: socket.socket) -> None:
    """Do the same with versions of cryptography that cannot write into buffers."""
    opening, sealing = ChaCha20Poly1305(OPENING_KEY), ChaCha20Poly1305(SEALING_KEY)
    read = bytearray(BUFFER_SIZE + READ_SIZE)
    read_view = memoryview(read)
    kept = counter = 0
    while True:
        count = source.recv_into(read_view[kept : kept + READ_SIZE])
        if not count:
            return
        end = kept + count
        start = 0
        parts: list[bytes] = []
        while end - start >= FRAME_LENGTH_SIZE:
            length = _LENGTH.unpack_from(read, start)[0]
            stop = start + FRAME_LENGTH_SIZE + length
            if stop > end:
                break
            sealed = start + _HEAD
            nonce = bytes(read_view[start + FRAME_LENGTH_SIZE : sealed])
            plain = opening.decrypt(nonce, bytes(read_view[sealed:stop]), None)
            nonce = counter.to_bytes(NONCE_SIZE, "little")
            counter += 1
            parts += (_LENGTH.pack(length), nonce, sealing.encrypt(nonce, plain, None))
            start = stop
        if start:
            sink.sendall(b"".join(parts))
        kept = end - start
        read[:kept] = read[start:end]
