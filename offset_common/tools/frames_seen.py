"""Puts what a connection's observer is told together, frame by frame.

Nothing is decoded here a second time: the channel tells of every payload and of the value of every layer
as it passes. Only what is inside a KaMessage is opened, by the same classes that nodes open it with.

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


class Version(NamedTuple):
    """The payload of the first frame each way."""

    number: int


class TunnelMessage(NamedTuple):
    """What one node sends to the other: the relay passes it on as it is."""

    data: bytes


class Unreadable(NamedTuple):
    """A payload that is not what it should be; it ends the connection."""

    size: int


Layer = Union[Message, Version, TunnelMessage, Unreadable]


class Frame(NamedTuple):
    """A frame with the values of its layers.

    Args:
        connection: the name of the connection.
        direction: SENT or RECEIVED, as the node sees it.
        payload: its bytes, without the length before them.
        layers: from the outermost to the innermost.
    """

    connection: str
    direction: str
    payload: bytes
    layers: list[Layer]

    @property
    def name(self) -> str:
        """What it is: the name of its innermost message."""
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
    """Listens to one connection of a node, and gives whole frames.

    What is sent is told value by value, innermost first, and later, as it leaves, by its payload. What is
    received is told by its payload, then by its values, outermost first.

    Args:
        connection: its name.
        emit: gets each frame.
    """

    def __init__(self, connection: str, emit: Callable[[Frame], None]) -> None:
        self._connection = connection
        self._emit = emit
        self._role: Optional[InitRole] = None
        self._sent_layers: list[Message] = []  # of the frame that is being made
        self._to_leave: deque[list[Message]] = deque()  # the layers of frames that have not left yet
        self._received_payload: Optional[bytes] = None  # whose values are still to be told
        self._received_layers: list[Message] = []
        self._versions: set[str] = set()  # the directions in which the version has passed

    @property
    def settled(self) -> bool:
        """Whether everything that was sent has left."""
        return not self._to_leave

    def observe(self, direction: str, value: object) -> None:
        """Take what the observer of a Connection is told."""
        if isinstance(value, bytes) and direction in (SENT, RECEIVED) and direction not in self._versions:
            self._versions.add(direction)
            self._emit(Frame(self._connection, direction, value, [Version(int.from_bytes(value, "big"))]))
        elif direction == SENT:
            self._sent(value)
        elif direction == RECEIVED:
            self._received(value)

    def finish(self) -> None:
        """Give the frame whose values were never told, if there is one."""
        payload = self._received_payload
        if payload is not None:
            self._received_payload = None
            layers: list[Layer] = [*self._received_layers, Unreadable(len(payload))]
            self._emit(Frame(self._connection, RECEIVED, payload, layers))

    def _sent(self, value: object) -> None:
        if isinstance(value, bytes):
            layers = self._to_leave.popleft()
            self._emit(Frame(self._connection, SENT, value, self._with_message(SENT, layers)))
        elif isinstance(value, Message):
            self._sent_layers.insert(0, value)
            if not isinstance(value, KaMessage):
                self._to_leave.append(self._sent_layers)
                self._sent_layers = []

    def _received(self, value: object) -> None:
        if isinstance(value, bytes):
            self.finish()
            self._received_payload = value
            self._received_layers = []
        elif isinstance(value, Message) and self._received_payload is not None:
            self._received_layers.append(value)
            if _is_innermost(value):
                layers = self._with_message(RECEIVED, self._received_layers)
                self._emit(Frame(self._connection, RECEIVED, self._received_payload, layers))
                self._received_payload = None

    def _with_message(self, direction: str, layers: list[Message]) -> list[Layer]:
        """Add what is inside the KaMessage, by the role that the connection has."""
        inner = layers[-1]
        opened: list[Layer] = [*layers]
        if isinstance(inner, KaMessage) and inner.message is not None:
            try:
                opened.append(self._open(direction, inner.message))
            except PeerError:
                opened.append(Unreadable(len(inner.message)))
        return opened

    def _open(self, direction: str, message: bytes) -> Layer:
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
