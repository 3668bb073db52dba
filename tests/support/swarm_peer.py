"""One of many test peers, on a non-blocking socket."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections import deque
from collections.abc import Callable
from typing import Optional, Union

from offset_common.wire.messages import InitConnection, InitRole
from tests.support.channel import Channel, KeyPair, WrongAnswer
from tests.support.encoding import encode, frame
from tests.support.peer import RESET

READ_SIZE = 1 << 17

Buffer = Union[bytes, bytearray, memoryview]
Supply = Callable[[], Buffer]
Watch = Callable[["SwarmPeer", int], None]


class SwarmPeer:
    """One connection of a swarm.

    Args:
        sock: non-blocking, connecting.
        keys: its identity.
        relay_key: the key that the relay must have.
        watch: called with this peer and the selector events that it waits for, whenever they change.
    """

    def __init__(self, sock: socket.socket, keys: KeyPair, relay_key: bytes, watch: Watch) -> None:
        self._relay_key = relay_key
        self._watch = watch
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.keys = keys
        self.channel: Optional[Channel] = None
        self.connected = False
        self.proven = False  # the handshake was finished, even if the connection has ended since
        self.ended = False
        self.reads = True
        self.messages: list[bytes] = []
        self.on_proven: Optional[Callable[[SwarmPeer], object]] = None
        self._supply: Optional[Supply] = None
        self._out: deque[memoryview] = deque()
        self._received = bytearray()
        self._half_close = False

    # Sending.

    def start_handshake(self) -> None:
        """Send the version and the first message; answer received messages from now on."""
        self.channel = Channel(self.keys, self._relay_key)
        self.channel.start()
        self.send_outgoing()

    def send_bytes(self, data: Buffer) -> None:
        """Send bytes as soon as there is room."""
        self._out.append(memoryview(data))
        self.flush()

    def send_frame(self, payload: bytes) -> None:
        """Send one frame."""
        self.send_bytes(frame(payload))

    def seal(self, message: Optional[bytes]) -> bytes:
        """Return the frame of the next message, or of a keepAlive for None, unsent."""
        assert self.channel is not None
        return frame(self.channel.seal(message))

    def send(self, message: Optional[bytes]) -> None:
        """Send one message, or a keepAlive for None."""
        self.send_bytes(self.seal(message))

    def start_rekey(self) -> None:
        """Ask for new keys."""
        assert self.channel is not None
        self.send_frame(self.channel.start_rekey())

    def send_outgoing(self) -> None:
        """Send the answers of the channel."""
        if self.channel is not None and self.channel.outgoing:
            payloads, self.channel.outgoing = self.channel.outgoing, []
            for payload in payloads:
                self.send_frame(payload)

    def init(self, role: InitRole, key: Optional[bytes] = None) -> SwarmPeer:
        """Send the InitConnection."""
        self.send(encode(InitConnection(role, key)))
        return self

    def supply(self, supply: Supply) -> None:
        """Send the results of `supply` whenever there is room, until it returns nothing."""
        self._supply = supply
        self.flush()

    def push(self, size: int, count: int) -> None:
        """Send `count` numbered messages of `size` bytes as fast as the relay reads them."""
        numbers = iter(range(count))

        def next_message() -> bytes:
            number = next(numbers, None)
            if number is None or self.channel is None:
                return b""
            return self.seal(number.to_bytes(8, "big") + bytes(size - 8))

        self.supply(next_message)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers of the received messages."""
        return [int.from_bytes(message[:8], "big") for message in self.messages]

    @property
    def unsent_bytes(self) -> int:
        """Return the number of bytes that have not been sent yet."""
        return sum(map(len, self._out))

    def discard_unsent(self) -> None:
        """Discard the bytes that the relay has not read yet."""
        self._out.clear()

    def flush(self) -> None:
        """Write as much as the kernel accepts."""
        try:
            while not self.ended and self.connected and self._next_piece():
                count = self.sock.send(self._out[0])
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
            if self._half_close and self.connected and not self._out and not self.ended:
                self._half_close = False
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.handle_send_error()
        self.update_interest()

    def _next_piece(self) -> bool:
        if not self._out and self._supply is not None:
            data = self._supply()
            if data:
                self._out.append(memoryview(data))
            else:
                self._supply = None
        return bool(self._out)

    # Receiving.

    def receive(self) -> None:
        """Read once, and handle every complete frame."""
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.handle_close()
            return
        if self.channel is None:
            return
        self._received += data
        try:
            while self.channel is not None and not self.ended:
                length = int.from_bytes(self._received[:8], "big")
                if len(self._received) < 8 + length or len(self._received) < 8:
                    break
                payload = bytes(self._received[8 : 8 + length])
                del self._received[: 8 + length]
                self._handle_payload(self.channel, payload)
        except WrongAnswer as error:
            self.handle_wrong_answer(error)

    def _handle_payload(self, channel: Channel, payload: bytes) -> None:
        message = channel.receive(payload)
        self.send_outgoing()
        if message is not None:
            self.handle_message(message)
        elif channel.established and not self.proven:
            self.proven = True
            self.handle_proven()

    def handle_proven(self) -> None:
        """Continue after the handshake."""
        if self.on_proven is not None:
            self.on_proven(self)

    def handle_message(self, message: bytes) -> None:
        """Take one message."""
        self.messages.append(message)

    def handle_wrong_answer(self, error: WrongAnswer) -> None:
        """Discard the channel, because the test has sent invalid bytes on purpose."""
        self.channel = None

    def handle_close(self) -> None:
        """Handle the end of the connection by the relay."""
        self.close()

    def handle_send_error(self) -> None:
        """Handle a connection that can't be written to any more."""
        self.close()

    # Events and the end.

    def update_interest(self) -> None:
        """Register for the events that are needed now."""
        mask = 0
        if not self.ended:
            if self.reads and self.connected:
                mask |= selectors.EVENT_READ
            if self._out or self._supply is not None or not self.connected:
                mask |= selectors.EVENT_WRITE
        self._watch(self, mask)

    def handle_ready(self, mask: int) -> None:
        """Handle the selector's events."""
        if not self.connected:
            if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.close()
            self.connected = True
        if mask & selectors.EVENT_READ and not self.ended:
            self.receive()
        if mask & selectors.EVENT_WRITE and not self.ended:
            self.flush()

    def set_reading(self, reads: bool) -> None:
        """Stop reading, or read again."""
        self.reads = reads
        self.update_interest()

    def close(self) -> None:
        """Close the connection from this side, or after the relay has."""
        if not self.ended:
            self.ended = True
            self.update_interest()
            self.sock.close()

    def half_close(self) -> None:
        """Announce that nothing more will be sent, once everything is."""
        self._half_close = True
        self.flush()

    def reset(self) -> None:
        """Close the connection with a reset."""
        if not self.ended:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close()
