"""Many test peers on non-blocking sockets, driven by one thread."""

from __future__ import annotations

import errno
import selectors
import socket
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Optional

from offset_common.wire.messages import InitRole
from tests.support.channel import KeyPair
from tests.support.node import Endpoint
from tests.support.process import PATIENCE
from tests.support.swarm_peer import SwarmPeer

AT_ONCE = 400  # simultaneous connection attempts: the kernel's accept queue is bounded
DEFAULT_SOURCE = "127.0.0.1"
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the port at connect time, which is quick


class Swarm:
    """Connections to one relay.

    Args:
        relay: the relay's address and key.
        receive_buffer: bytes of the kernel's receive buffer of each connection; None for the default.
    """

    def __init__(self, relay: Endpoint, receive_buffer: Optional[int] = None) -> None:
        self.relay = relay
        self._receive_buffer = receive_buffer
        self.peers: list[SwarmPeer] = []
        self._selector = selectors.DefaultSelector()
        self._masks: dict[SwarmPeer, int] = {}

    def close(self) -> None:
        """Close every connection and the selector."""
        self.leave()
        self._selector.close()

    def leave(self) -> None:
        """Close every connection."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def watch(self, peer: SwarmPeer, mask: int) -> None:
        """Call `peer` for the events in `mask`."""
        before = self._masks.pop(peer, 0)
        if mask:
            self._masks[peer] = mask
        if mask == before:
            return
        if not before:
            self._selector.register(peer.sock, mask, peer)
        elif not mask:
            self._selector.unregister(peer.sock)
        else:
            self._selector.modify(peer.sock, mask, peer)

    def open_socket(self, source: str = DEFAULT_SOURCE) -> socket.socket:
        """Return a non-blocking socket that is connecting to the relay."""
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self._receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer)
        if source != DEFAULT_SOURCE:
            sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
            sock.bind((source, 0))
        code = sock.connect_ex(self.relay.address)
        assert code in (0, errno.EINPROGRESS), errno.errorcode[code]
        return sock

    def dial(
        self, count: int = 1, keys: Optional[Sequence[KeyPair]] = None, source: str = DEFAULT_SOURCE
    ) -> list[SwarmPeer]:
        """Open connections, and wait until they are established.

        Args:
            count: how many.
            keys: their identities, used in turn; None for a new one each.
            source: their source address.
        """
        new: list[SwarmPeer] = []
        for number in range(count):
            identity = keys[number % len(keys)] if keys else KeyPair()
            new.append(SwarmPeer(self.open_socket(source), identity, self.relay.public_key, self.watch))
            new[-1].update_interest()
            if len(new) % AT_ONCE == 0:
                self.run(partial(_all_connected, new))
        self.peers += new
        assert self.run(partial(_all_connected, new)), "not every connection was established"
        return new

    def prove(
        self,
        count: int = 1,
        keys: Optional[Sequence[KeyPair]] = None,
        source: str = DEFAULT_SOURCE,
        then: Optional[Callable[[SwarmPeer], object]] = None,
    ) -> list[SwarmPeer]:
        """Open connections and finish their handshakes; return those that finished.

        Args:
            count: how many.
            keys: their identities, as for `dial`.
            source: their source address.
            then: called with each as soon as its handshake is done.
        """
        proven: list[SwarmPeer] = []
        for start in range(0, count, AT_ONCE):
            some = [keys[(start + number) % len(keys)] for number in range(AT_ONCE)] if keys else None
            new = self.dial(min(AT_ONCE, count - start), some, source)
            for peer in new:
                peer.on_proven = then
                if not peer.ended:
                    peer.start_handshake()
            assert self.run(partial(_all_settled, new)), "handshakes are not answered"
            proven += [peer for peer in new if peer.proven]
        return proven

    def listen(self, keys: Optional[KeyPair] = None, source: str = DEFAULT_SOURCE) -> SwarmPeer:
        """Open a listener, and return once the relay announces connects to it."""
        (listener,) = self.prove(1, [keys] if keys else None, source, lambda peer: peer.init(InitRole.LISTEN))
        while not listener.messages and not listener.ended:
            (probe,) = self.connect(1, listener.keys.public_key, source=source)
            assert self.run(partial(_is_answered, listener, probe)), "a probe is neither announced nor closed"
            probe.close()
        listener.messages.clear()
        return listener

    def listeners(self, count: int, source: str = DEFAULT_SOURCE) -> list[SwarmPeer]:
        """Open listeners of different keys."""
        return self.prove(count, source=source, then=lambda peer: peer.init(InitRole.LISTEN))

    def connect(
        self, count: int, key: bytes, keys: Optional[Sequence[KeyPair]] = None, source: str = DEFAULT_SOURCE
    ) -> list[SwarmPeer]:
        """Connect to the listener of `key`."""
        return self.prove(count, keys, source, lambda peer: peer.init(InitRole.CONNECT, key))

    def accept(self, listener: SwarmPeer, caller: bytes, source: str = DEFAULT_SOURCE) -> SwarmPeer:
        """Accept the connect of a caller with the listener's key."""
        accept = partial(SwarmPeer.init, role=InitRole.ACCEPT, key=caller)
        return self.prove(1, [listener.keys], source, accept)[0]

    def tunnels(
        self, count: int, source: str = DEFAULT_SOURCE, far_source: Optional[str] = None
    ) -> list[tuple[SwarmPeer, SwarmPeer]]:
        """Make tunnels: pairs of a caller, each of another key, and an acceptor, all of one key.

        Args:
            count: how many.
            source: the source address of the callers.
            far_source: that of the acceptors; None for the same.
        """
        far_source = far_source or source
        listener = self.listen(source=far_source)
        near = self.connect(count, listener.keys.public_key, source=source)
        assert self.run(lambda: len(listener.messages) >= count), "not all were announced"
        callers = iter([peer.keys.public_key for peer in near])
        far = self.prove(
            count, [listener.keys], far_source, lambda peer: peer.init(InitRole.ACCEPT, next(callers))
        )
        for number, peer in enumerate(far):
            peer.send(number.to_bytes(8, "big"))
        assert self.run(lambda: all(peer.messages for peer in near)), "not all were joined"
        pairs = [(peer, far[peer.numbers[0]]) for peer in near]
        for peer in near:
            peer.messages.clear()
        return pairs

    def run(self, until: Callable[[], bool], seconds: float = PATIENCE) -> bool:
        """Drive the connections until `until` holds; return whether it did in time."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                return False
            self.run_once(min(0.05, max(0.0, deadline - time.monotonic())))
        return True

    def run_once(self, wait: float = 0.0) -> None:
        """Wait for events, and handle them."""
        for key, mask in self._selector.select(wait):
            peer: SwarmPeer = key.data
            if not peer.ended:
                peer.handle_ready(mask)

    def run_for(self, seconds: float) -> None:
        """Drive the connections for a time."""
        self.run(lambda: False, seconds)

    def all_end(self, peers: Iterable[SwarmPeer], seconds: float = PATIENCE) -> bool:
        """Return whether the relay ends all of these in time."""
        peers = list(peers)
        return self.run(lambda: all(peer.ended for peer in peers), seconds)


def count_open(peers: Iterable[SwarmPeer]) -> int:
    """Return how many of the connections have not ended."""
    return sum(not peer.ended for peer in peers)


def _all_connected(peers: Sequence[SwarmPeer]) -> bool:
    return all(peer.connected or peer.ended for peer in peers)


def _all_settled(peers: Sequence[SwarmPeer]) -> bool:
    return all(peer.proven or peer.ended for peer in peers)


def _is_answered(listener: SwarmPeer, probe: SwarmPeer) -> bool:
    return bool(listener.messages) or listener.ended or probe.ended
