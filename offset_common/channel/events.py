"""The events that a connection reports to the layer above."""

from __future__ import annotations

from typing import NamedTuple, Union


class HandshakeCompleted(NamedTuple):
    """The peer has proven its key, and messages can be exchanged. Always the first event.

    Args:
        peer_public_key: 32 bytes.
    """

    peer_public_key: bytes


class MessageReceived(NamedTuple):
    """The peer sent a message.

    Args:
        data: bytes of the layer above.
    """

    data: bytes

    def __repr__(self) -> str:
        return f"MessageReceived({len(self.data)} bytes)"


Event = Union[HandshakeCompleted, MessageReceived]
