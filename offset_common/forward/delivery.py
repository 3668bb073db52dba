"""Deliver stream messages once and in order, even if the tunnel under them is replaced.

A tunnel delivers its messages in order until it breaks. Then neither side knows which of the last messages
arrived. So each side counts the messages that it receives and confirms the count from time to time (ACK).
Unconfirmed messages are kept, and sent again through the next tunnel, from the count in the other side's
HELLO or WELCOME.
"""

from __future__ import annotations

from collections import deque
from typing import Callable, Optional

from offset_common.errors import DecodeError
from offset_common.forward.messages import Kind, encode_ack

ACK_MESSAGES = 256  # messages received before they are confirmed
ACK_BYTES = 1024 * 1024
MESSAGE_COST = 100  # bytes counted for each kept message in addition to its content


class Delivery:
    """The stream messages of one session, in both directions. It starts detached: without a tunnel."""

    def __init__(self) -> None:
        self._transmit: Optional[Callable[[bytes], object]] = None
        self._kept: deque[bytes] = deque()
        self._confirmed = 0  # messages sent and confirmed: the number of the first message in _kept
        self._unconfirmed_messages = self._unconfirmed_bytes = 0  # received, not confirmed by us
        self.received = 0  # messages in total
        self.kept_size = 0  # bytes

    def send(self, message: bytes) -> None:
        """Send a stream message, now or through the next tunnel."""
        self._kept.append(message)
        self.kept_size += len(message) + MESSAGE_COST
        if self._transmit is not None:
            self._transmit(message)

    def count_received(self, message: bytes) -> None:
        """Count a stream message that the tunnel delivered; confirm from time to time."""
        self.received += 1
        self._unconfirmed_messages += 1
        self._unconfirmed_bytes += len(message)
        if self._unconfirmed_messages >= ACK_MESSAGES or self._unconfirmed_bytes >= ACK_BYTES:
            self.confirm_received()

    def confirm_received(self) -> None:
        """Confirm the messages received since the last ACK, if there are any."""
        if self._transmit is not None and self._unconfirmed_messages:
            self._unconfirmed_messages = self._unconfirmed_bytes = 0
            self._transmit(encode_ack(self.received))

    def awaits_end(self) -> bool:
        """Return whether the other side may not have received the end of a stream."""
        return any(message[0] == Kind.END for message in self._kept)

    def drop_confirmed(self, count: int) -> None:
        """Forget the messages that the other side has received.

        Args:
            count: how many it has received in total.

        Raises:
            DecodeError: it cannot have received that many, or has confirmed more before.
        """
        if not 0 <= count - self._confirmed <= len(self._kept):
            raise DecodeError("the other side confirms messages that were never sent")
        for _ in range(count - self._confirmed):
            self.kept_size -= len(self._kept.popleft()) + MESSAGE_COST
        self._confirmed = count

    def attach(self, transmit: Callable[[bytes], object], peer_received: int) -> None:
        """Use a new tunnel, and send again what did not arrive through the previous one.

        Args:
            transmit: sends one message through the tunnel.
            peer_received: how many messages the other side has received in total.

        Raises:
            DecodeError: it cannot have received that many.
        """
        self.drop_confirmed(peer_received)
        self._transmit = transmit
        self._unconfirmed_messages = self._unconfirmed_bytes = 0
        for message in self._kept:
            transmit(message)

    def detach(self) -> None:
        """Stop transmitting and only keep messages: the tunnel has ended."""
        self._transmit = None
