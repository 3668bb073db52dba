"""The part that both sides share: the streams and local connections of a session, over successive tunnels.

    local connections  <-->  streams  <-->  delivery  <-->  the current tunnel

Without a tunnel, the local connections stay open and are read until MAX_KEPT bytes are kept. The next tunnel
continues where the last one broke. The owner of a session (share.py or reach.py) gives it its tunnels, and
ends it if it has none for too long.
"""

from __future__ import annotations

from typing import Callable, Optional, Union

from offset_common.errors import DecodeError
from offset_common.forward.delivery import Delivery
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.local import BUFFER_SIZE, Ended, LocalConnection
from offset_common.forward.messages import Kind, kind_of, read_ack
from offset_common.forward.streams import Streams
from offset_common.forward.tunnel import ForwardTunnel

MAX_KEPT = 4 * 1024 * 1024  # bytes sent and not confirmed, above which nothing more is read
MAX_ANSWERS = 4 * MAX_KEPT  # above which a side that does not read the answers breaks the rules
MAX_UNWRITTEN = 32 * 1024 * 1024  # unread bytes for local connections, above which the tunnel is not read


class Session:
    """The streams between this machine and one other. It starts without a tunnel.

    Args:
        loop: the event loop.
        accept: on the sharing side, called with the name of a service that the other side opens; it returns
            the connection, or the reason for a refusal.
    """

    def __init__(
        self, loop: EventLoop, accept: Optional[Callable[[str], Union[LocalConnection, str]]]
    ) -> None:
        self._loop = loop
        self._delivery = Delivery()
        self._streams = Streams(self._delivery.send, accept, self._confirm_if_idle)
        self._tunnel: Optional[ForwardTunnel] = None
        self._waiting: list[LocalConnection] = []  # to send
        self._unwritten = 0  # bytes
        self._delivered: Optional[Callable[[str], object]] = None
        self.buffer = memoryview(bytearray(BUFFER_SIZE))

    @property
    def received(self) -> int:
        """The number of stream messages received so far."""
        return self._delivery.received

    @property
    def attached(self) -> bool:
        """Whether there is a tunnel."""
        return self._tunnel is not None

    @property
    def finished(self) -> bool:
        """Whether no stream is open, and the other side has received the ends of all."""
        return not self._streams and not self._delivery.awaits_end()

    def new_local(self, ended: Ended) -> LocalConnection:
        """Return a connection for a stream of this session."""
        local = LocalConnection(self._loop, ended)
        local.enter(self)
        return local

    def open(self, service: str, local: LocalConnection) -> None:
        """Open a stream to a service of the other side."""
        local.enter(self)
        self._streams.open(service, local)

    def attach(self, tunnel: ForwardTunnel, peer_received: int) -> None:
        """Continue through a new tunnel.

        Raises:
            DecodeError: the other side cannot have received this number of messages.
        """
        self._tunnel = tunnel
        self._delivery.attach(tunnel.send, peer_received)
        self._check_delivered()
        self.continue_sending()

    def detach(self) -> None:
        """Keep everything for the next tunnel: this one has ended."""
        self._tunnel = None
        self._delivery.detach()

    def receive(self, message: bytes) -> None:
        """Handle a message of the tunnel.

        Raises:
            DecodeError: it is malformed, or not allowed now.
        """
        kind = kind_of(message)
        if kind is Kind.ACK:
            self._delivery.drop_confirmed(read_ack(message))
            self._check_delivered()
            self.continue_sending()
        elif kind >= Kind.OPEN:
            self._delivery.count_received(message)
            self._streams.receive(message)
            self._confirm_if_idle()
        else:
            raise DecodeError(f"the other side sent a {kind.name} inside a session")
        if self._delivery.kept_size > MAX_ANSWERS:
            raise DecodeError("the other side sends without reading the answers")

    def when_delivered(self, delivered: Callable[[str], object]) -> None:
        """Call a function once the other side has received everything.

        Args:
            delivered: called with an empty string, or with a reason if the session ends before.
        """
        self._delivered = delivered
        self._check_delivered()

    def _confirm_if_idle(self) -> None:
        """Confirm everything once no stream is open: the other side may wait for that to end."""
        if not self._streams:
            self._delivery.confirm_received()

    def _check_delivered(self) -> None:
        if self._delivered is not None and not self._delivery.kept_size:
            delivered, self._delivered = self._delivered, None
            delivered("")

    def end(self, reason: str) -> None:
        """Cut off all local connections."""
        self.detach()
        self._streams.end_all(reason)
        if self._delivered is not None:
            self._delivered(reason)

    def reset_all(self, reason: str) -> None:
        """Cut off all local connections, and inform the other side."""
        self._streams.reset_all(reason)
        self._confirm_if_idle()

    def continue_sending(self) -> None:
        """Resume reading the local connections that wait, if the session accepts data."""
        if self._waiting and self.may_send():
            waiting, self._waiting = self._waiting, []
            for local in waiting:
                local.continue_reading()

    # The Gate of its local connections.

    def may_send(self) -> bool:
        """Return whether the session accepts data."""
        full = self._tunnel is not None and self._tunnel.full
        return not full and self._delivery.kept_size < MAX_KEPT

    def wait_to_send(self, local: LocalConnection) -> None:
        """Call `LocalConnection.continue_reading` once the session accepts data again."""
        self._waiting.append(local)

    def count_unwritten(self, size: int) -> None:
        """Count bytes that wait for a local connection; the number is negative once they are written."""
        self._unwritten += size
        if self._tunnel is not None:
            if self._unwritten > MAX_UNWRITTEN:
                self._tunnel.pause()
            elif size < 0 and self._unwritten < MAX_UNWRITTEN // 2:
                self._tunnel.resume()
