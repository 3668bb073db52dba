"""A test peer: one connection on a blocking socket."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Optional

from offset_common.wire.messages import (
    ExchangeDh,
    IncomingConnection,
    InitConnection,
    InitRole,
    RejectConnection,
    Rekey,
)
from tests.support.channel import Channel, unchanged
from tests.support.encoding import VERSION, decode, encode, frame

TIMEOUT = 60.0  # seconds that anything here may take before the test fails
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with a reset

Address = tuple[str, int]


class Ended(Exception):
    """The relay ended the connection, with an orderly end or a reset."""


class Peer:
    """One connection on a blocking socket.

    Args:
        sock: connected.
        channel: the secure channel, before its handshake.
    """

    def __init__(self, sock: socket.socket, channel: Channel) -> None:
        self.sock = sock
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.port: int = sock.getsockname()[1]
        self.channel = channel
        self._held: Optional[bytearray] = None
        self._received = bytearray()
        self._announced: deque[bytes] = deque()
        self._send_lock = threading.Lock()

    # Bytes and frames.

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are."""
        if self._held is not None:
            self._held += data
            return
        try:
            self.sock.sendall(data)
        except ConnectionError as error:
            raise Ended from error

    def hold(self) -> None:
        """Keep everything that is sent until `release` or `take_held`."""
        self._held = bytearray()

    def take_held(self) -> bytes:
        """Return the held bytes and stop holding."""
        held, self._held = self._held, None
        return bytes(held or b"")

    def release(self) -> None:
        """Send the held bytes in one piece."""
        self.send_bytes(self.take_held())

    def send_frame(self, payload: bytes) -> None:
        """Send one frame."""
        self.send_bytes(frame(payload))

    def receive_frame(self) -> bytes:
        """Wait for one frame."""
        while len(self._received) < 8:
            self._receive_some()
        (length,) = struct.unpack_from(">Q", self._received)
        while len(self._received) < 8 + length:
            self._receive_some()
        payload = bytes(self._received[8 : 8 + length])
        del self._received[: 8 + length]
        return payload

    def _receive_some(self) -> None:
        try:
            data = self.sock.recv(1 << 18)
        except ConnectionError as error:
            raise Ended from error
        if not data:
            raise Ended
        self._received += data

    @property
    def has_unread_bytes(self) -> bool:
        """Whether bytes of the next frame were already read from the socket."""
        return bool(self._received)

    @property
    def was_closed(self) -> bool:
        """Whether the relay has closed the connection; reads nothing."""
        poller = select.poll()
        poller.register(self.sock, select.POLLRDHUP)
        return bool(poller.poll(0))

    def close(self) -> None:
        """Close the connection."""
        self.sock.close()

    def reset(self) -> None:
        """Close the connection with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.sock.close()

    def half_close(self) -> None:
        """Announce that nothing more will be sent."""
        self.sock.shutdown(socket.SHUT_WR)

    def wait_for_close(self) -> None:
        """Wait until the relay closes the connection; discard everything received."""
        with contextlib.suppress(Ended):
            while True:
                self._receive_some()

    def messages_until_end(self) -> list[bytes]:
        """Return the messages that arrive before the relay ends the connection."""
        messages = []
        while True:
            try:
                messages.append(self.receive())
            except Ended:
                return messages

    # The handshake.

    def handshake(self, spoil: Callable[[ExchangeDh], ExchangeDh] = unchanged) -> Peer:
        """Prove this side's identity and check the relay's.

        Args:
            spoil: changes our proof before it is sent.
        """
        self.exchange_versions()
        self.send_frame(self.channel.first_message())
        self.send_frame(self.channel.prove(self.receive_frame(), spoil))
        self.channel.finish(self.receive_frame())
        return self

    def exchange_versions(self) -> None:
        """Send our version and check the relay's."""
        self.send_frame(VERSION)
        assert self.receive_frame() == VERSION

    # Sealed messages.

    def send(self, message: bytes) -> None:
        """Send one message."""
        with self._send_lock:
            self.send_frame(self.channel.seal(message))

    def send_keepalive(self, padding: Optional[int] = None) -> None:
        """Send a keepAlive."""
        with self._send_lock:
            self.send_frame(self.channel.seal(None, padding))

    def start_rekey(self) -> None:
        """Ask for new keys; `receive` takes the answer."""
        with self._send_lock:
            self.send_frame(self.channel.start_rekey())

    def receive(self) -> bytes:
        """Wait for one message; handle keepalives and rekeys before it.

        Raises:
            Ended: the relay ended the connection.
        """
        while True:
            message = self.receive_any()
            if message is not None:
                return message

    def receive_any(self) -> Optional[bytes]:
        """Wait for one frame; return its message, or None for a keepAlive or a Rekey."""
        content = self.channel.open(self.receive_frame())
        if not isinstance(content, Rekey):
            return self.channel.read_message(content)
        with self._send_lock:
            self.channel.take_rekey(content)
            for answer in self.channel.outgoing:
                self.send_frame(answer)
            self.channel.outgoing.clear()
        return None

    # The relay's layer, section 7.

    def init(self, role: InitRole, key: Optional[bytes] = None) -> Peer:
        """Send the InitConnection."""
        self.send(encode(InitConnection(role, key)))
        return self

    def incoming(self) -> bytes:
        """Return the key of the next connect that is announced to this listener."""
        return self._announced.popleft() if self._announced else announced_key(self.receive())

    def reject(self, key: bytes) -> None:
        """Reject a pending connect."""
        self.send(encode(RejectConnection(key)))

    def keep_announced(self, key: bytes) -> None:
        """Return `key` from a later `incoming`."""
        self._announced.append(key)


def announced_key(message: bytes) -> bytes:
    """Return the key in an IncomingConnection."""
    return bytes(decode(IncomingConnection, message).public_key)
