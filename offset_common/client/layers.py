"""The layers of a node's connection: the channel to the relay and, where wanted, one end to end above it.

    messages of the program
     └─ KeepaliveChannel with the other node   only end to end
         └─ Connection with the relay

Neither sockets nor a clock in here: it is driven as a Connection is.

Source: section 0 of docs/protocol.md.
"""

from __future__ import annotations

from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.channel.keepalive import ChannelState, KeepaliveChannel
from offset_common.channel.secure_channel import Observer
from offset_common.errors import PeerError


class Layers:
    """Messages over an established connection with a relay.

    Args:
        connection: its handshake is done.
        end_to_end: the second channel, just made; None where the relay may read along.
        now: seconds, of the clock that every later `now` is of.
    """

    def __init__(self, connection: Connection, end_to_end: Optional[KeepaliveChannel], now: float) -> None:
        self._connection = connection
        self._end_to_end = end_to_end
        self._send_end_to_end(now)

    @property
    def ready(self) -> bool:
        """Whether messages may pass: end to end, not before the other node is proven."""
        return self._end_to_end is None or self._end_to_end.state is ChannelState.READY

    @property
    def end_to_end_ready(self) -> bool:
        """Whether there is a second channel, and the other node is proven on it."""
        return self._end_to_end is not None and self.ready

    @property
    def has_partial(self) -> bool:
        """Whether a part of a frame waits for the rest."""
        return self._connection.received_size > 0

    def receive_data(self, data: bytes) -> None:
        """Take the bytes that came, cut in any way; `next_message` tells what they mean."""
        self._connection.receive_data(data)

    def next_message(self, now: float) -> Optional[bytes]:
        """Return the next message of what came so far, or None until more comes.

        Raises:
            PeerError: the relay or the other node broke the protocol.
        """
        while True:
            event = self._connection.next_event(now)
            if event is None:
                return None
            if not isinstance(event, MessageReceived):
                continue
            if self._end_to_end is None:
                return event.data
            message = self._receive_end_to_end(self._end_to_end, event.data, now)
            if message is not None:
                return message

    def send(self, message: bytes, now: float) -> None:
        """Send one message; `data_to_send` gives the bytes.

        Raises:
            LocalProtocolError: not `ready` yet.
        """
        if self._end_to_end is None:
            self._connection.send(message, now)
        else:
            self._end_to_end.send(message, now)
            self._send_end_to_end(now)

    def data_to_send(self) -> bytes:
        """Return, once, the bytes that are to be sent now."""
        return self._connection.data_to_send()

    def next_deadline(self) -> float:
        """Return the time, in seconds, at which `handle_time` has something to do at the earliest."""
        deadline = self._connection.next_deadline()
        if self._end_to_end is not None and self.ready:
            deadline = min(deadline, self._end_to_end.next_deadline())
        return deadline

    def handle_time(self, now: float) -> None:
        """Do what is due at `now`, on both layers.

        Raises:
            SilenceError: nothing came for too long.
        """
        self._connection.handle_time(now)
        # Until the other node is proven, it may have to be waited for as long as the program likes.
        if self._end_to_end is not None and self.ready:
            try:
                self._end_to_end.handle_time(now)
            except PeerError as error:
                raise _end_to_end_error(error) from error
            self._send_end_to_end(now)

    def mark_received(self, now: float) -> None:
        """Do not count anybody's silence up to `now`: it was us who did not listen."""
        self._connection.channel.mark_received(now)
        if self._end_to_end is not None:
            self._end_to_end.mark_received(now)

    def _receive_end_to_end(self, channel: KeepaliveChannel, payload: bytes, now: float) -> Optional[bytes]:
        try:
            event = channel.receive_payload(payload, now)
        except PeerError as error:
            raise _end_to_end_error(error) from error
        self._send_end_to_end(now)
        return None if event is None or isinstance(event, HandshakeCompleted) else event.data

    def _send_end_to_end(self, now: float) -> None:
        if self._end_to_end is not None:
            for payload in self._end_to_end.outgoing:
                self._connection.send(payload, now)
            self._end_to_end.outgoing.clear()


def _end_to_end_error(error: PeerError) -> PeerError:
    return type(error)(f"end to end: {error}")


def observer_end_to_end(observer: Optional[Observer]) -> Optional[Observer]:
    """Return an observer for the channel between the nodes, which tells `observer` what is end to end."""
    if observer is None:
        return None
    tell = observer
    return lambda direction, value: tell(f"{direction} end to end", value)
