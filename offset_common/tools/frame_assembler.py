"""Assemble frames, with the messages that they contain, from the calls to a connection's observer.

The channel reports every payload and every decoded message, so they are not decoded again here. Only the
content of a KaMessage is decoded, because its type depends on the role of the connection.

Source: section 0 of docs/protocol.md.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, NamedTuple, Optional, Union

from offset_common.errors import PeerError
from offset_common.wire.fields import Message
from offset_common.wire.messages import (
    ChannelMessage,
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    InitRole,
    KaMessage,
    RejectConnection,
    Rekey,
)

SENT, RECEIVED = "sent", "received"
OPENING = ("version", "ExchangeRandNonce", "ExchangeDh")
"""The first frames of each connection in each direction. After them, everything is encrypted."""


class Version(NamedTuple):
    """The payload of the first frame in each direction."""

    number: int


class TunnelMessage(NamedTuple):
    """Data from one node to the other, which the relay forwards unchanged."""

    data: bytes


class Unreadable(NamedTuple):
    """A payload that cannot be decrypted or decoded; the connection is closed."""


Layer = Union[Message, Version, TunnelMessage, Unreadable]


class Frame(NamedTuple):
    """A frame and its decoded layers.

    Args:
        connection: the name of the connection.
        direction: SENT or RECEIVED, from the node's side.
        payload: bytes, without the frame's length prefix.
        layers: from the outermost to the innermost.
    """

    connection: str
    direction: str
    payload: bytes
    layers: list[Layer]

    @property
    def name(self) -> str:
        """The name of the innermost message."""
        inner = self.layers[-1]
        if isinstance(inner, InitConnection):
            return f"InitConnection {inner.role.name.lower()}"
        if isinstance(inner, ChannelMessage):
            return "Rekey"
        if isinstance(inner, KaMessage):
            return "keepAlive"
        return {Version: "version", TunnelMessage: "tunnel message", Unreadable: "unreadable"}.get(
            type(inner), type(inner).__name__
        )


class FrameAssembler:
    """Observe one connection of a node and emit complete frames.

    For a sent frame, the observer is called with each message, innermost first, and later, when the frame is
    sent, with the payload. For a received frame, it is called with the payload, then with each message,
    outermost first.

    Args:
        connection: its name.
        emit: called with each frame.
    """

    def __init__(self, connection: str, emit: Callable[[Frame], None]) -> None:
        self._connection = connection
        self._emit = emit
        self._role: Optional[InitRole] = None
        self._sent_layers: list[Message] = []  # of the frame that is being encoded
        self._queued: deque[list[Message]] = deque()  # the layers of encoded frames that are not sent
        self._received_payload: Optional[bytes] = None  # awaiting its messages
        self._received_layers: list[Message] = []
        self._versions: set[str] = set()  # the directions in which the version was seen

    @property
    def settled(self) -> bool:
        """Whether all encoded frames have been sent."""
        return not self._queued

    def observe(self, direction: str, value: object) -> None:
        """Process one call of a Connection's observer."""
        if isinstance(value, bytes) and direction in (SENT, RECEIVED) and direction not in self._versions:
            self._versions.add(direction)
            self._emit(Frame(self._connection, direction, value, [Version(int.from_bytes(value, "big"))]))
        elif direction == SENT:
            self._sent(value)
        elif direction == RECEIVED:
            self._received(value)

    def finish(self) -> None:
        """Emit a received payload whose messages are incomplete as an unreadable frame."""
        payload = self._received_payload
        if payload is not None:
            self._received_payload = None
            layers: list[Layer] = [*self._received_layers, Unreadable()]
            self._emit(Frame(self._connection, RECEIVED, payload, layers))

    def _sent(self, value: object) -> None:
        if isinstance(value, bytes):
            layers = self._queued.popleft()
            self._emit(Frame(self._connection, SENT, value, self._with_content(SENT, layers)))
        elif isinstance(value, Message):
            self._sent_layers.insert(0, value)
            if not isinstance(value, KaMessage):
                self._queued.append(self._sent_layers)
                self._sent_layers = []

    def _received(self, value: object) -> None:
        if isinstance(value, bytes):
            self.finish()
            self._received_payload = value
            self._received_layers = []
        elif isinstance(value, Message) and self._received_payload is not None:
            self._received_layers.append(value)
            if _is_innermost(value):
                layers = self._with_content(RECEIVED, self._received_layers)
                self._emit(Frame(self._connection, RECEIVED, self._received_payload, layers))
                self._received_payload = None

    def _with_content(self, direction: str, layers: list[Message]) -> list[Layer]:
        """Return the layers, with the decoded content of the KaMessage appended."""
        inner = layers[-1]
        result: list[Layer] = [*layers]
        if isinstance(inner, KaMessage) and inner.message is not None:
            try:
                result.append(self._decode(direction, inner.message))
            except PeerError:
                result.append(Unreadable())
        return result

    def _decode(self, direction: str, message: bytes) -> Layer:
        if self._role is None:
            init = InitConnection.decode(message)
            self._role = init.role
            return init
        if self._role is not InitRole.LISTEN:
            return TunnelMessage(message)
        return RejectConnection.decode(message) if direction == SENT else IncomingConnection.decode(message)


def _is_innermost(value: Message) -> bool:
    if isinstance(value, ChannelMessage):
        return isinstance(value.content, Rekey)
    return isinstance(value, (ExchangeRandNonce, ExchangeDh, KaMessage))
