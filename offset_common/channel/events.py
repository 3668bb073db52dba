"""What a connection tells the layer above, one event at a time."""

from __future__ import annotations

from typing import NamedTuple, Union


class HandshakeCompleted(NamedTuple):
    """The peer is proven and messages may pass; comes once, first.

    Args:
        peer_public_key: 32 bytes.
    """

    peer_public_key: bytes


class MessageReceived(NamedTuple):
    """The peer sent a `message` of the keepalive layer.

    Args:
        data: its bytes, of the layer above.
    """

    data: bytes

    def __repr__(self) -> str:
        return f"MessageReceived({len(self.data)} bytes)"


Event = Union[HandshakeCompleted, MessageReceived]
