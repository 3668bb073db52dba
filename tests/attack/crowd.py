"""Strangers in numbers: many connections to one relay, driven by one thread.

They use the package's own channel, which is quick; what they do wrong is done on top of it.
"""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Callable, Optional, Union

from offset_common.channel.connection import Connection
from offset_common.channel.events import MessageReceived
from offset_common.errors import OffsetError
from offset_common.identity import Identity
from offset_common.wire.messages import InitConnection, InitRole
from tests.end_to_end.peer import Place

AT_ONCE = 400  # connects under way at the same time: the system's own queue is bounded
HERE = "127.0.0.1"
IP_BIND_ADDRESS_NO_PORT = 24  # of linux/in.h: the port is chosen at the connect, where it is found quickly
RESET = struct.pack("ii", 1, 0)

Buffer = Union[bytes, bytearray, memoryview]


class Visitor:
    """One of the crowd.

    Args:
        crowd: whose it is.
        sock: non-blocking.
        identity: who it says it is.
    """

    def __init__(self, crowd: Crowd, sock: socket.socket, identity: Identity) -> None:
        self.crowd = crowd
        self.sock = sock
        self.identity = identity
        self.connection: Optional[Connection] = None
        self.connected = False
        self.proven = False  # the handshake was finished; it may be over by now
        self.ended = False
        self.reads = True
        self.messages: list[bytes] = []
        self.received = 0  # bytes
        self.on_proven: Optional[Callable[[Visitor], object]] = None  # called once the handshake is done
        self.supply: Optional[Callable[[], Buffer]] = (
            None  # more to send, whenever there is room; b"" is the end
        )
        self._out = memoryview(b"")
        self._half_close = False

    def begin_handshake(self) -> None:
        """Send the version and ExchangeRandNonce, and answer what comes from now on."""
        self.connection = Connection(self.identity, time.monotonic())
        self.send_connection()

    def send_bytes(self, data: Buffer) -> None:
        """Send bytes as they are, as soon as the relay takes them."""
        self._out = memoryview(bytes(self._out) + bytes(data)) if self._out else memoryview(data)
        self.flush()

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.seal(message)
        self.send_connection()

    def seal(self, message: bytes) -> None:
        """Make the frame of one message, which `send_connection` sends."""
        assert self.connection is not None
        self.connection.send(message, time.monotonic())

    def send_connection(self) -> None:
        """Send what the connection has to say."""
        assert self.connection is not None
        data = self.connection.data_to_send()
        if data:
            self.send_bytes(data)

    def init(self, role: InitRole, key: Optional[bytes] = None) -> Visitor:
        """Say what it is there for."""
        self.send(InitConnection(role, key).encode())
        return self

    @property
    def waiting_to_send(self) -> int:
        """Bytes that the relay has not taken yet."""
        return len(self._out)

    def flush(self) -> None:
        """Send what the system takes."""
        try:
            while not self.ended and self.connected:
                if not self._out and self.supply is not None:
                    self._out = memoryview(self.supply())
                    if not self._out:
                        self.supply = None
                if not self._out:
                    if self._half_close:
                        self._half_close = False
                        self.sock.shutdown(socket.SHUT_WR)
                    break
                self._out = self._out[self.sock.send(self._out) :]
        except BlockingIOError:
            pass
        except OSError:
            self.end()
        self.watch()

    def receive(self) -> None:
        """Take what came."""
        try:
            data = self.sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.end()
            return
        self.received += len(data)
        if self.connection is None:
            return
        try:
            self.connection.receive_data(data)
            while True:
                event = self.connection.next_event(time.monotonic())
                if event is None:
                    break
                if isinstance(event, MessageReceived):
                    self.messages.append(event.data)
                else:
                    self.proven = True
                    if self.on_proven is not None:
                        self.on_proven(self)
            self.send_connection()
        except OffsetError:
            self.connection = None  # the relay answers something that was spoilt on purpose

    def watch(self) -> None:
        """Be called for what there is to do."""
        mask = 0
        if not self.ended:
            if self.reads and self.connected:
                mask |= selectors.EVENT_READ
            if self._out or self.supply is not None or not self.connected:
                mask |= selectors.EVENT_WRITE
        self.crowd.watch(self, mask)

    def stop_reading(self) -> None:
        """Read nothing more."""
        self.reads = False
        self.watch()

    def resume_reading(self) -> None:
        """Read again."""
        self.reads = True
        self.watch()

    def end(self) -> None:
        """Take note that it is over, or end it."""
        self.ended = True
        self.watch()
        self.sock.close()

    def half_close(self) -> None:
        """Say that nothing more is sent, once all is."""
        self._half_close = True
        self.flush()

    def reset(self) -> None:
        """End it by a reset."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.end()


class Crowd:
    """Connections to one relay.

    Args:
        place: the relay.
    """

    def __init__(self, place: Place) -> None:
        self.place = place
        self.visitors: list[Visitor] = []
        self._selector = selectors.DefaultSelector()
        self._masks: dict[Visitor, int] = {}

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        self._selector.close()

    def leave(self) -> None:
        """Close every connection."""
        for visitor in self.visitors:
            if not visitor.ended:
                visitor.end()
        self.visitors.clear()

    def watch(self, visitor: Visitor, mask: int) -> None:
        """Call `visitor` for what is in `mask`."""
        before = self._masks.get(visitor, 0)
        if mask == before:
            return
        if not before:
            self._selector.register(visitor.sock, mask, visitor)
        elif not mask:
            self._selector.unregister(visitor.sock)
        else:
            self._selector.modify(visitor.sock, mask, visitor)
        self._masks[visitor] = mask
        if not mask:
            del self._masks[visitor]

    def dial(
        self, count: int = 1, identities: Optional[Sequence[Identity]] = None, source: str = HERE
    ) -> list[Visitor]:
        """Open connections, and wait until the system has made them.

        Args:
            count: how many.
            identities: who they are, one after the other and again; new ones where it is None.
            source: the address that they come from.
        """
        new: list[Visitor] = []
        for number in range(count):
            identity = identities[number % len(identities)] if identities else Identity.generate()
            sock = socket.socket()
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if source != HERE:
                sock.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
                sock.bind((source, 0))
            code = sock.connect_ex(self.place.address)
            assert code in (0, errno.EINPROGRESS), code
            visitor = Visitor(self, sock, identity)
            self.visitors.append(visitor)
            new.append(visitor)
            visitor.watch()
            if number % AT_ONCE == AT_ONCE - 1:
                self.run(lambda: all(each.connected or each.ended for each in new))
        assert self.run(lambda: all(each.connected or each.ended for each in new)), "not all were connected"
        return new

    def prove(
        self,
        count: int = 1,
        identities: Optional[Sequence[Identity]] = None,
        source: str = HERE,
        then: Optional[Callable[[Visitor], object]] = None,
    ) -> list[Visitor]:
        """Open connections and finish their handshakes; return those whose handshake was finished.

        Args:
            count: how many.
            identities: who they are, as for `dial`.
            source: the address that they come from.
            then: called with each one as soon as its handshake is done.
        """
        proven: list[Visitor] = []
        for begin in range(0, count, AT_ONCE):
            some = [*identities[begin:], *identities[:begin]] if identities else None
            new = self.dial(min(AT_ONCE, count - begin), some, source)
            for visitor in new:
                visitor.on_proven = then
                if not visitor.ended:
                    visitor.begin_handshake()
            assert self.run(partial(_all_are_through, new), 30.0), "handshakes are not answered"
            proven += [each for each in new if each.proven]
        return proven

    def listen(self, identity: Optional[Identity] = None, source: str = HERE) -> Visitor:
        """Let one listen, and see that connects are announced to it."""
        (listener,) = self.prove(
            1, [identity] if identity else None, source, lambda each: each.init(InitRole.LISTEN)
        )
        while not listener.messages and not listener.ended:
            (probe,) = self.connect(1, listener.identity.public_key, source=source)
            assert self.run(partial(_is_announced_or_ended, listener, probe))
            probe.end()
        listener.messages.clear()
        return listener

    def connect(
        self, count: int, key: bytes, identities: Optional[Sequence[Identity]] = None, source: str = HERE
    ) -> list[Visitor]:
        """Let some connect to the listener of `key`, each as soon as it can."""
        return self.prove(count, identities, source, lambda each: each.init(InitRole.CONNECT, key))

    def tunnels(self, count: int, source: str = HERE) -> list[tuple[Visitor, Visitor]]:
        """Make tunnels: the ends that connected, each of another key, and those that accepted, all of one."""
        listener = self.listen(source=source)
        key = listener.identity.public_key
        near = self.connect(count, key, source=source)
        assert self.run(lambda: len(listener.messages) >= count, 30.0), "not all were announced"
        callers = iter([each.identity.public_key for each in near])
        far = self.prove(
            count, [listener.identity], source, lambda each: each.init(InitRole.ACCEPT, next(callers))
        )
        by_caller: dict[bytes, Visitor] = {}
        for visitor in far:
            visitor.send(b"accepted")
        assert self.run(lambda: all(each.messages for each in near), 30.0), "not all were joined"
        for visitor in near:
            assert visitor.messages.pop() == b"accepted"
        # Which of the acceptors is whose other end: they tell.
        for number, visitor in enumerate(near):
            visitor.send(number.to_bytes(4, "big"))
        assert self.run(lambda: all(each.messages for each in far), 30.0), "not all hear from the other end"
        for visitor in far:
            number = int.from_bytes(visitor.messages.pop(), "big")
            by_caller[near[number].identity.public_key] = visitor
        return [(each, by_caller[each.identity.public_key]) for each in near]

    def run(self, until: Callable[[], bool], seconds: float = 10.0) -> bool:
        """Do what there is to do until `until` holds; say whether it did in time."""
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() >= deadline:
                return False
            self.run_once(min(0.05, max(0.0, deadline - time.monotonic())))
        return True

    def run_once(self, wait: float = 0.0) -> None:
        """Wait for something to do, and do it."""
        for key, mask in self._selector.select(wait):
            visitor: Visitor = key.data
            if visitor.ended:
                continue
            if not visitor.connected:
                self._connected(visitor)
            if mask & selectors.EVENT_READ and not visitor.ended:
                visitor.receive()
            if mask & selectors.EVENT_WRITE and not visitor.ended:
                visitor.flush()

    def run_for(self, seconds: float) -> None:
        """Do what there is to do for so long."""
        self.run(lambda: False, seconds)

    def all_end(self, visitors: Iterable[Visitor], seconds: float = 10.0) -> bool:
        """Say whether the relay ends all of these in time."""
        visitors = list(visitors)
        return self.run(lambda: all(each.ended for each in visitors), seconds)

    @staticmethod
    def _connected(visitor: Visitor) -> None:
        if visitor.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            visitor.end()
        else:
            visitor.connected = True


def _is_announced_or_ended(listener: Visitor, probe: Visitor) -> bool:
    return bool(listener.messages) or listener.ended or probe.ended


def _all_are_through(visitors: Sequence[Visitor]) -> bool:
    return all(each.proven or each.ended for each in visitors)
