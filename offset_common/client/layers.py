"""The layers of a node's connection: the channel to the relay and, if wanted, one to the other node.

    messages of the program
     └─ KeepaliveChannel with the other node   only end to end
         └─ Connection with the relay

Like Connection, this class has neither sockets nor a clock.

Source: section 0 of docs/protocol.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Optional

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.channel.secure_channel import Observer
from offset_common.errors import PeerError


class Layers:
    """Messages over an established connection with a relay.

    Args:
        connection: the connection to the relay, with its handshake complete.
        end_to_end: a new channel to the other node, or None if the relay may read the messages.
        now: seconds, from the same clock as every later `now`.
    """

    def __init__(self, connection: Connection, end_to_end: Optional[KeepaliveChannel], now: float) -> None:
        self._connection = connection
        self._end_to_end = end_to_end
        self._forward_end_to_end(now)

    @property
    def ready(self) -> bool:
        """Whether messages can be sent; end to end, only once that handshake is complete."""
        return self._end_to_end is None or self._end_to_end.established

    @property
    def end_to_end_ready(self) -> bool:
        """Whether there is an end-to-end channel and its handshake is complete."""
        return self._end_to_end is not None and self.ready

    @property
    def has_partial(self) -> bool:
        """Whether a partial frame was received."""
        return self._connection.received_size > 0

    def receive_data(self, data: bytes) -> None:
        """Add bytes from the socket, in pieces of any size; `next_message` decodes them."""
        self._connection.receive_data(data)

    def next_message(self, now: float) -> Optional[bytes]:
        """Return the next complete message, or None if more bytes are needed.

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
        """Encrypt one message; `data_to_send` returns the bytes.

        Raises:
            LocalProtocolError: not `ready` yet.
        """
        if self._end_to_end is None:
            self._connection.send(message, now)
        else:
            self._end_to_end.send(message, now)
            self._forward_end_to_end(now)

    def data_to_send(self) -> bytes:
        """Return and remove the bytes to write to the socket."""
        return self._connection.data_to_send()

    def next_deadline(self) -> float:
        """Return the earliest time, in seconds, at which `handle_time` has work to do."""
        deadline = self._connection.next_deadline()
        if self._end_to_end is not None and self.ready:
            deadline = min(deadline, self._end_to_end.next_deadline())
        return deadline

    def handle_time(self, now: float) -> None:
        """Send keepalives, start rekeys and check timeouts on both layers.

        Raises:
            SilenceError: nothing was received for too long.
        """
        self._connection.handle_time(now)
        # Until the end-to-end handshake is complete, the caller's own timeout applies.
        if self._end_to_end is not None and self.ready:
            with _naming_the_layer():
                self._end_to_end.handle_time(now)
            self._forward_end_to_end(now)

    def restart_idle_timeout(self, now: float) -> None:
        """Restart the idle timeout on both layers, because this side was not reading until `now`."""
        self._connection.mark_received(now)
        if self._end_to_end is not None:
            self._end_to_end.mark_received(now)

    def _receive_end_to_end(self, channel: KeepaliveChannel, payload: bytes, now: float) -> Optional[bytes]:
        with _naming_the_layer():
            event = channel.receive_payload(payload, now)
        self._forward_end_to_end(now)
        return None if event is None or isinstance(event, HandshakeCompleted) else event.data

    def _forward_end_to_end(self, now: float) -> None:
        """Send the queued payloads of the end-to-end channel through the relay."""
        if self._end_to_end is not None:
            for payload in self._end_to_end.outgoing:
                self._connection.send(payload, now)
            self._end_to_end.outgoing.clear()


@contextmanager
def _naming_the_layer() -> Iterator[None]:
    """Prefix the text of a PeerError with the name of the end-to-end layer."""
    try:
        yield
    except PeerError as error:
        error.name_layer("end to end")
        raise


def observer_end_to_end(observer: Optional[Observer]) -> Optional[Observer]:
    """Return an observer for the end-to-end channel, which adds "end to end" to each direction."""
    if observer is None:
        return None
    observe = observer
    return lambda direction, value: observe(f"{direction} end to end", value)
