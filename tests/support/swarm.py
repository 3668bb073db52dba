"""Many test peers on non-blocking sockets, driven by one thread."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Optional, Union

from offset_common.wire.messages import InitConnection, InitRole
from tests.support.channel import Channel, KeyPair, WrongAnswer
from tests.support.encoding import encode, frame
from tests.support.peer import RESET, Endpoint

AT_ONCE = 400  # connection attempts under way at the same time: the kernel's accept queue is bounded
DEFAULT_SOURCE = "127.0.0.1"
IP_BIND_ADDRESS_NO_PORT = 24  # linux/in.h: choose the port at connect time, which is quick
READ_SIZE = 1 << 17

Buffer = Union[bytes, bytearray, memoryview]
Supply = Callable[[], Buffer]


class SwarmPeer:
    """One connection of a swarm.

    Args:
        swarm: drives it.
        sock: non-blocking, connecting.
        keys: its identity.
    """

    def __init__(self, swarm: Swarm, sock: socket.socket, keys: KeyPair) -> None:
        self.swarm = swarm
        self.sock = sock
        self.port: int = sock.getsockname()[1]
        self.keys = keys
        self.channel: Optional[Channel] = None
        self.connected = False
        self.proven = False  # the handshake was finished, even if the connection has ended since
        self.ended = False
        self.reads = True
        self.messages: list[bytes] = []
        self.received_bytes = 0
        self.on_proven: Optional[Callable[[SwarmPeer], object]] = None
        self._supply: Optional[Supply] = None
        self._change: Callable[[bytes], bytes] = bytes
        self._out: deque[memoryview] = deque()
        self._received = bytearray()
        self._half_close = False

    # What it sends.

    def start_handshake(self, change: Callable[[bytes], bytes] = bytes) -> None:
        """Send the version and the first message, and answer what arrives from now on.

        Args:
            change: changes each frame of the handshake before it is sent.
        """
        self._change = change
        self.channel = Channel(self.keys, self.swarm.relay.public_key)
        self.channel.start()
        self.send_outgoing()

    def fall_silent(self) -> None:
        """Send nothing more, and ignore what arrives."""
        self.channel = None

    def send_bytes(self, data: Buffer) -> None:
        """Send bytes as they are, as soon as the relay takes them."""
        self._out.append(memoryview(data))
        self.flush()

    def send_frame(self, payload: bytes) -> None:
        """Send one frame."""
        self.send_bytes(frame(payload))

    def seal(self, message: Optional[bytes]) -> bytes:
        """Return the frame of the next message, or of a keepAlive for None, unsent."""
        assert self.channel is not None
        return frame(self.channel.seal(message))

    def send(self, message: Optional[bytes]) -> None:
        """Send one message, or a keepAlive for None."""
        self.send_bytes(self.seal(message))

    def start_rekey(self) -> None:
        """Ask for new keys."""
        assert self.channel is not None
        self.send_frame(self.channel.start_rekey())

    def send_outgoing(self) -> None:
        """Send what the channel has to answer."""
        if self.channel is not None and self.channel.outgoing:
            payloads, self.channel.outgoing = self.channel.outgoing, []
            for payload in payloads:
                self.send_bytes(frame(payload) if self.proven else self._change(frame(payload)))

    def init(self, role: InitRole, key: Optional[bytes] = None) -> SwarmPeer:
        """Send the InitConnection."""
        self.send(encode(InitConnection(role, key)))
        return self

    def supply(self, supply: Supply) -> None:
        """Send what `supply` returns whenever there is room, until it returns nothing."""
        self._supply = supply
        self.flush()

    def push(self, size: int, count: int) -> None:
        """Send `count` messages of `size` bytes as fast as they are taken; each begins with its number."""
        numbers = iter(range(count))

        def next_message() -> bytes:
            number = next(numbers, None)
            if number is None or self.channel is None:
                return b""
            return self.seal(number.to_bytes(8, "big") + bytes(size - 8))

        self.supply(next_message)

    @property
    def numbers(self) -> list[int]:
        """Return the numbers with which the received messages begin."""
        return [int.from_bytes(message[:8], "big") for message in self.messages]

    @property
    def unsent_bytes(self) -> int:
        """Return how many bytes the relay has not taken yet."""
        return sum(map(len, self._out))

    def flush(self) -> None:
        """Send what the kernel takes."""
        try:
            while not self.ended and self.connected and self._next_piece():
                count = self.sock.send(self._out[0])
                if count == len(self._out[0]):
                    self._out.popleft()
                else:
                    self._out[0] = self._out[0][count:]
            if self._half_close and self.connected and not self._out and not self.ended:
                self._half_close = False
                self.sock.shutdown(socket.SHUT_WR)
        except BlockingIOError:
            pass
        except OSError:
            self.handle_send_error()
        self.update_interest()

    def _next_piece(self) -> bool:
        if not self._out and self._supply is not None:
            data = self._supply()
            if data:
                self._out.append(memoryview(data))
            else:
                self._supply = None
        return bool(self._out)

    # What arrives.

    def receive(self) -> None:
        """Read once, and handle every complete frame."""
        try:
            data = self.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.handle_close()
            return
        self.received_bytes += len(data)
        if self.channel is None:
            return
        self._received += data
        try:
            while self.channel is not None and not self.ended:
                length = int.from_bytes(self._received[:8], "big")
                if len(self._received) < 8 + length or len(self._received) < 8:
                    break
                payload = bytes(self._received[8 : 8 + length])
                del self._received[: 8 + length]
                self._handle_payload(self.channel, payload)
        except WrongAnswer as error:
            self.handle_wrong_answer(error)

    def _handle_payload(self, channel: Channel, payload: bytes) -> None:
        message = channel.receive(payload)
        self.send_outgoing()
        if message is not None:
            self.handle_message(message)
        elif channel.established and not self.proven:
            self.proven = True
            self.handle_proven()

    def handle_proven(self) -> None:
        """Continue after the handshake."""
        if self.on_proven is not None:
            self.on_proven(self)

    def handle_message(self, message: bytes) -> None:
        """Take one message."""
        self.messages.append(message)

    def handle_wrong_answer(self, error: WrongAnswer) -> None:
        """Give up the channel: the relay answers something that was spoilt on purpose."""
        self.channel = None

    def handle_close(self) -> None:
        """Take note that the relay has closed the connection."""
        self.close()

    def handle_send_error(self) -> None:
        """Take note that the connection doesn't take anything any more."""
        self.close()

    # How it is driven, and how it ends.

    def update_interest(self) -> None:
        """Register for what there is to do now."""
        mask = 0
        if not self.ended:
            if self.reads and self.connected:
                mask |= selectors.EVENT_READ
            if self._out or self._supply is not None or not self.connected:
                mask |= selectors.EVENT_WRITE
        self.swarm.watch(self, mask)

    def handle_ready(self, mask: int) -> None:
        """Handle what the selector reports."""
        if not self.connected:
            if self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.close()
            self.connected = True
        if mask & selectors.EVENT_READ and not self.ended:
            self.receive()
        if mask & selectors.EVENT_WRITE and not self.ended:
            self.flush()

    def stop_reading(self) -> None:
        """Read nothing from now on."""
        self.reads = False
        self.update_interest()

    def resume_reading(self) -> None:
        """Read again."""
        self.reads = True
        self.update_interest()

    def close(self) -> None:
        """Close the connection from this side, or after the relay has."""
        if not self.ended:
            self.ended = True
            self.update_interest()
            self.sock.close()

    def half_close(self) -> None:
        """Announce that nothing more will be sent, once everything is."""
        self._half_close = True
        self.flush()

    def reset(self) -> None:
        """Close the connection with a reset."""
        if not self.ended:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.close()


class Swarm:
    """Connections to one relay.

    Args:
        relay: the relay's address and key.
    """

    def __init__(self, relay: Endpoint) -> None:
        self.relay = relay
        self.peers: list[SwarmPeer] = []
        self._selector = selectors.DefaultSelector()
        self._masks: dict[SwarmPeer, int] = {}

    def close(self) -> None:
        """Close every connection for good."""
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
            source: the address they come from.
        """
        new: list[SwarmPeer] = []
        for number in range(count):
            identity = keys[number % len(keys)] if keys else KeyPair()
            new.append(SwarmPeer(self, self.open_socket(source), identity))
            new[-1].update_interest()
            if len(new) % AT_ONCE == 0:
                self.run(partial(_all_connected, new))
        self.peers += new
        assert self.run(partial(_all_connected, new)), "not all connections were established"
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
            source: the address they come from.
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
            assert self.run(partial(_all_settled, new), 30.0), "handshakes are not answered"
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

    def tunnels(self, count: int, source: str = DEFAULT_SOURCE) -> list[tuple[SwarmPeer, SwarmPeer]]:
        """Make tunnels: pairs of a caller, each of another key, and an acceptor, all of one key."""
        listener = self.listen(source=source)
        near = self.connect(count, listener.keys.public_key, source=source)
        assert self.run(lambda: len(listener.messages) >= count, 30.0), "not all were announced"
        callers = iter([peer.keys.public_key for peer in near])
        far = self.prove(
            count, [listener.keys], source, lambda peer: peer.init(InitRole.ACCEPT, next(callers))
        )
        for number, peer in enumerate(far):
            peer.send(number.to_bytes(8, "big"))
        assert self.run(lambda: all(peer.messages for peer in near), 30.0), "not all were joined"
        pairs = [(peer, far[peer.numbers[0]]) for peer in near]
        for peer in near:
            peer.messages.clear()
        return pairs

    def run(self, until: Callable[[], bool], seconds: float = 10.0) -> bool:
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

    def all_end(self, peers: Iterable[SwarmPeer], seconds: float = 10.0) -> bool:
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
