"""One connection of a simulated node to the relay."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Optional

from offset_common.wire.messages import IncomingConnection, InitRole
from tests.soak.payloads import WrongPayload
from tests.support.channel import WrongAnswer
from tests.support.encoding import decode
from tests.support.swarm_peer import Buffer, SwarmPeer

if TYPE_CHECKING:
    from tests.soak.node import Node

KEEPALIVE_INTERVAL = 16.0  # seconds
IDLE_TIMEOUT = 34.0  # seconds: 32, and two ticks


class Connection(SwarmPeer):
    """One connection, which checks everything that it receives.

    Args:
        node: whose it is.
        role: its role.
        other: the node that it connects to, or whose connect it accepts.
    """

    def __init__(self, node: Node, role: InitRole, other: Optional[Node] = None) -> None:
        swarm = node.simulation.swarm
        super().__init__(swarm.open_socket(), node.keys, swarm.relay.public_key, swarm.watch)
        self.node = node
        self.role = role
        self.other = other
        self.simulation = node.simulation
        self.stream = self.simulation.ledger.new_stream(self)
        self.partner: Optional[Connection] = None  # the other end of the tunnel, once a message showed it
        self.started = self.last_heard = self.last_sent = self.simulation.now
        self.opened = math.inf  # when it sent its InitConnection
        self.sent = self.received = 0  # messages
        self.early = 0  # messages to send as soon as it is open
        self.quit = False  # its node closed it, or stopped its keepalives
        self.finishing = False  # its node ended it after everything was sent
        self.rekeying = False
        self.rekeyed_at = -math.inf
        self.start_handshake()

    def __repr__(self) -> str:
        other = f" {self.other.number}" if self.other else ""
        return (
            f"<port {self.port}, node {self.node.number}, {self.role.name.lower()}{other}, "
            f"stream {self.stream}, {self.simulation.now - self.started:.1f} s, "
            f"{self.sent} out, {self.received} in>"
        )

    @property
    def is_open(self) -> bool:
        """Return whether it can send messages."""
        return self.proven and not self.finishing and not self.ended

    @property
    def is_pending(self) -> bool:
        """Return whether it is a connect without a known acceptor."""
        return self.role is InitRole.CONNECT and self.partner is None and not self.ended

    # Actions of its node.

    def talk(self, size: int) -> None:
        """Send the next message of its stream."""
        self.send(self.simulation.payloads.make(self.stream, self.sent, size))
        self.sent += 1

    def rekey(self) -> None:
        """Ask for new keys."""
        self.rekeyed_at = self.simulation.now
        self.rekeying = True
        self.start_rekey()

    def stall(self, stalled: bool) -> None:
        """Stop reading, or read again."""
        self.last_heard = self.simulation.now
        self.set_reading(not stalled)

    def finish(self) -> None:
        """Send all queued data, then half-close, and read until the relay closes."""
        if self.is_open:
            self.quit = self.finishing = self.reads = True
            self.half_close()
        elif not self.proven:
            self.reset()

    def reset(self) -> None:
        """Close with a reset, which loses data in transit."""
        self.quit, self.finishing = True, False
        super().reset()

    def tick(self) -> None:
        """Send a keepalive if it is time for one; find out that the relay is silent."""
        if self.finishing or self.node.frozen or not self.proven:
            return
        if not self.reads:
            self.last_heard = self.simulation.now
        if self.simulation.now - self.last_heard > IDLE_TIMEOUT:
            self.handle_wrong_answer(WrongAnswer("the relay is silent"))
        elif self.simulation.now - self.last_sent > KEEPALIVE_INTERVAL:
            self.send(None)

    # Events.

    def send_bytes(self, data: Buffer) -> None:
        """Send bytes; a half-closed connection answers nothing any more."""
        self.last_sent = self.simulation.now
        if not self.finishing:
            super().send_bytes(data)

    def update_interest(self) -> None:
        """Register for the events that are needed, unless the node is frozen."""
        if self.node.frozen:
            self.simulation.swarm.watch(self, 0)
        else:
            super().update_interest()

    def receive(self) -> None:
        """Read once."""
        self.last_heard = self.simulation.now
        super().receive()
        if self.rekeying and self.channel is not None and not self.channel.rekey_pending:
            self.rekeying = False
            self.simulation.ledger.count["rekeys"] += 1

    def handle_proven(self) -> None:
        """Send the InitConnection."""
        self.opened = self.simulation.now
        self.init(self.role, None if self.other is None else self.other.keys.public_key)
        self.node.handle_opened(self)

    def handle_message(self, message: bytes) -> None:
        """Check that a message is the next one of the right stream."""
        if self.role is InitRole.LISTEN:
            self.node.handle_call(self, decode(IncomingConnection, message).public_key)
            return
        stream, counter = self.simulation.payloads.recognize(message)
        if self.partner is None:
            self.simulation.ledger.joined(self, stream)
        if self.partner is None or stream != self.partner.stream or counter != self.received:
            raise WrongPayload(f"message {counter} of stream {stream} is out of place")
        self.received += 1
        self.simulation.ledger.count["messages"] += 1
        self.simulation.ledger.count["bytes"] += len(message)

    def handle_wrong_answer(self, error: WrongAnswer) -> None:
        """Record that the relay broke the protocol."""
        self.simulation.ledger.fault(f"{self}: {error}, other end {self.partner}")
        self.reset()

    def handle_close(self) -> None:
        """Check that the relay had a reason to close it."""
        self.simulation.ledger.judge(self)
        self.close()

    def handle_send_error(self) -> None:
        """Read the data that the relay sent before it closed the connection."""
        self.discard_unsent()
        self.reads = True

    def close(self) -> None:
        """Close it, and forget it."""
        if not self.ended:
            super().close()
            self.simulation.ledger.ended(self)
            self.node.handle_ended(self)
