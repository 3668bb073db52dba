"""One connection of a node to the relay, and what it sends and receives."""

from __future__ import annotations

import contextlib
import enum
import errno
import math
import selectors
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.errors import OffsetError
from offset_common.wire.messages import IncomingConnection, InitConnection, InitRole
from tests.soak.payloads import WrongPayload

if TYPE_CHECKING:
    from tests.soak.node import Node

READ_SIZE = 1 << 17
RESET = struct.pack("ii", 1, 0)


class Phase(enum.Enum):
    """How far a connection is."""

    SHAKING_HANDS = "shaking hands"
    OPEN = "open"
    FINISHING = "finishing"  # all is said, and the relay was told; what still comes is read
    OVER = "over"


class End:
    """One connection, non-blocking.

    Args:
        node: whose it is.
        role: what it is for.
        other: whom it connects to, or whose connect it accepts.
    """

    def __init__(self, node: Node, role: InitRole, other: Optional[Node] = None) -> None:
        self.node = node
        self.role = role
        self.other = other
        self.town = node.town
        self.stream = self.town.ledger.new_stream(self)
        self.peer: Optional[End] = None  # the other end of the tunnel, once a message showed it
        self.phase = Phase.SHAKING_HANDS
        self.begun = self.town.now
        self.opened = math.inf  # when it said what it is for
        self.sent = self.received = 0  # messages
        self.early = 0  # messages that are sent as soon as it is open
        self.quit = False  # its node ended it, or gave up doing what keeps it alive
        self.in_order = False  # ... after everything was sent
        self.stalled = False
        self.rekeying = False
        self.rekeyed_at = -math.inf
        self._mask = 0
        self._out: deque[memoryview] = deque()
        self.queued = 0  # bytes
        self._connected = False
        self.connection = Connection(node.identity, self.town.now, self.town.relay_key)
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        code = self.sock.connect_ex(self.town.relay_address)
        assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
        self.port: int = self.sock.getsockname()[1]
        self._send_connection()

    def __repr__(self) -> str:
        other = f" {self.other.number}" if self.other else ""
        return (
            f"<port {self.port}, node {self.node.number}, {self.role.name.lower()}{other}, "
            f"stream {self.stream}, {self.phase.value}, "
            f"{self.town.now - self.begun:.1f} s, {self.sent} out, {self.received} in>"
        )

    @property
    def waiting(self) -> bool:
        """Whether it is a connect of which nobody has shown that it is accepted."""
        return self.role is InitRole.CONNECT and self.peer is None and self.phase is not Phase.OVER

    # What its node does with it.

    def talk(self, size: int) -> None:
        """Send the next message of its stream."""
        self.send(self.town.payloads.make(self.stream, self.sent, size))
        self.sent += 1

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.connection.send(message, self.town.now)
        self._send_connection()

    def rekey(self) -> None:
        """Ask for new keys."""
        self.rekeyed_at = self.town.now
        self.rekeying = True
        self.connection.secure_channel.start_rekey(self.town.now)
        self._send_connection()

    def stall(self, stalled: bool) -> None:
        """Read nothing from now on, or read on."""
        self.stalled = stalled
        if not stalled and self.phase is not Phase.OVER:
            self.connection.channel.mark_received(self.town.now)
        self.watch()

    def finish(self) -> None:
        """Say no more; once all is sent, tell the relay, and read until it closes."""
        if self.phase is Phase.OPEN:
            self.quit = self.in_order = True
            self.stalled = False
            self.phase = Phase.FINISHING
            self._flush()
        elif self.phase is Phase.SHAKING_HANDS:
            self.reset()

    def reset(self) -> None:
        """Vanish: what is on its way is lost."""
        if self.phase is not Phase.OVER:
            self.quit, self.in_order = True, False
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self._over()

    def tick(self) -> None:
        """Send a keepalive where it is time for one; find that the relay is silent."""
        if self.phase in (Phase.OVER, Phase.FINISHING) or self.node.frozen:
            return
        if self.stalled:
            self.connection.channel.mark_received(self.town.now)
        try:
            self.connection.handle_time(self.town.now)
        except OffsetError as error:
            self.town.ledger.fault(f"{self}: {error}")
            self.reset()
            return
        self._send_connection()

    # What the selector and the relay do with it.

    def watch(self) -> None:
        """Be called for what there is to do now."""
        mask = 0
        if self.phase is not Phase.OVER and not self.node.frozen:
            if self._connected and not self.stalled:
                mask |= selectors.EVENT_READ
            if self._out or not self._connected:
                mask |= selectors.EVENT_WRITE
        if mask != self._mask:
            self.town.watch(self, self._mask, mask)
            self._mask = mask

    def on_ready(self, mask: int) -> None:
        """Write and read what can be."""
        self._connected = True
        if mask & selectors.EVENT_WRITE and self.phase is not Phase.OVER:
            self._flush()
        if mask & selectors.EVENT_READ and self.phase is not Phase.OVER:
            self._receive()

    def _receive(self) -> None:
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._closed_by_relay()
            return
        try:
            self.connection.receive_data(data)
            while self.phase is not Phase.OVER:
                event = self.connection.next_event(self.town.now)
                if event is None:
                    break
                if isinstance(event, MessageReceived):
                    self._take(event.data)
                else:
                    self._open()
            if self.phase is not Phase.OVER:
                self._after_receiving()
        except (OffsetError, WrongPayload) as error:
            self.town.ledger.fault(f"{self}: {error}")
            self.reset()

    def _after_receiving(self) -> None:
        if self.rekeying and not self.connection.secure_channel.rekey_pending:
            self.rekeying = False
            self.town.ledger.count["rekeys"] += 1
        if self.phase is Phase.OPEN:
            self._send_connection()

    def _open(self) -> None:
        self.phase = Phase.OPEN
        self.opened = self.town.now
        key = None if self.other is None else self.other.identity.public_key
        self.send(InitConnection(self.role, key).encode())
        self.node.opened(self)

    def _take(self, message: bytes) -> None:
        if self.role is InitRole.LISTEN:
            self.node.called(self, IncomingConnection.decode(message).public_key)
            return
        stream, counter = self.town.payloads.recognize(message)
        if self.peer is None:
            self.town.ledger.joined(self, stream)
        if self.peer is None or stream != self.peer.stream or counter != self.received:
            raise WrongPayload(
                f"message {counter} of stream {stream} came out of place; expected of {self.peer}"
            )
        self.received += 1
        self.town.ledger.count["messages"] += 1
        self.town.ledger.count["bytes"] += len(message)

    def _closed_by_relay(self) -> None:
        self.town.ledger.judge(self)
        self._over()

    def _over(self) -> None:
        self.phase = Phase.OVER
        self.watch()
        self.sock.close()
        self._out.clear()
        self.queued = 0
        self.town.ledger.ended(self)
        self.node.ended(self)

    def _send_connection(self) -> None:
        data = self.connection.data_to_send()
        if data and self.phase is not Phase.OVER:
            self._out.append(memoryview(data))
            self.queued += len(data)
            if self._connected:
                self._flush()
            else:
                self.watch()

    def _flush(self) -> None:
        try:
            while self._out:
                count = self.sock.send(self._out[0])
                self.queued -= count
                self._out[0] = self._out[0][count:]
                if not self._out[0]:
                    self._out.popleft()
            if self.phase is Phase.FINISHING:
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            # The relay has closed it. What it sent before that is still to be read, and tells why.
            self._out.clear()
            self.queued = 0
            self.stalled = False
        self.watch()
