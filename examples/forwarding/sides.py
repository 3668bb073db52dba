"""The two sides of forward.py: serve listens at the relay, dial listens for TCP connections.

Each TCP connection has its own tunnel and threads, so a slow one does not delay the others.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from functools import partial
from typing import Callable, Optional

from examples.forwarding.bridge import Bridge, prepare, reason_of
from offset_common.address import Address
from offset_common.client import Deadline, Incoming, Listener, Step, Tunnel, connect, listen
from offset_common.client.backoff import Backoff
from offset_common.constants import HANDSHAKE_TIMEOUT, WAITING_CONNECT_TIMEOUT
from offset_common.errors import ConnectError, OffsetError, ServiceError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket

ACCEPT_PAUSE = 0.25  # seconds without accepting after accept() failed
TARGET_TIMEOUT = 10.0  # seconds to connect to the TCP server
STOP_TIMEOUT = 2.0  # seconds to close all connections when the program stops
REJECTIONS_LOGGED = 10  # per REJECTIONS_WINDOW, because anyone with the relay's ticket can connect
REJECTIONS_WINDOW = 60.0  # seconds
STOPPED = "forward.py was stopped"

_log_lock = threading.Lock()


def log(text: str) -> None:
    """Write one line to stderr; ignore errors, as the terminal or pipe may be closed."""
    with _log_lock, suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class Side(ABC):
    """The base class of serve and dial: runs a limited number of bridges in threads.

    Args:
        ticket: the relay's.
        identity: this side's.
        limit: the maximum number of connections.
    """

    def __init__(self, ticket: RelayTicket, identity: Identity, limit: int) -> None:
        self.ticket = ticket
        self.identity = identity
        self.slots = threading.BoundedSemaphore(limit)
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._bridges: set[Bridge] = set()
        self._count = 0

    @abstractmethod
    def run(self) -> None:
        """Forward connections until `stop`."""

    def stop(self) -> None:
        """Accept no more connections, and cut off all existing ones."""
        self.stopping.set()
        deadline = Deadline(STOP_TIMEOUT)
        with self._lock:
            bridges = list(self._bridges)
        for bridge in bridges:
            bridge.cut_off(STOPPED)
        for bridge in bridges:
            bridge.finished.wait(deadline.left())

    def start(self, origin: str, make_bridge: Callable[[str], Bridge]) -> None:
        """Forward one connection in a thread. The caller has acquired its slot.

        The thread releases the slot when the tunnel and the TCP connection are gone.

        Args:
            origin: the client, for the log.
            make_bridge: gets the connection's name and returns its bridge, or raises an error.
        """
        self._count += 1
        name = f"connection {self._count}"
        log(f"{name}: from {origin}")
        threading.Thread(target=self._forward, args=(name, make_bridge), daemon=True).start()

    def _forward(self, name: str, make_bridge: Callable[[str], Bridge]) -> None:
        try:
            bridge = make_bridge(name)
            log(f"{name}: {self._run(bridge)}")
            bridge.wait_until_gone()
        except (OSError, OffsetError) as error:
            log(f"{name}: failed: {reason_of(error)}")
        finally:
            self.slots.release()

    def _run(self, bridge: Bridge) -> str:
        with self._lock:
            self._bridges.add(bridge)
        if self.stopping.is_set():
            bridge.cut_off(STOPPED)
        try:
            return bridge.run()
        finally:
            with self._lock:
                self._bridges.discard(bridge)


class Serve(Side):
    """Connect the allowed keys to one TCP server.

    Args:
        target: the address of the TCP server.
        allowed: public keys, 32 bytes each.
    """

    def __init__(
        self, ticket: RelayTicket, identity: Identity, limit: int, target: Address, allowed: frozenset[bytes]
    ) -> None:
        super().__init__(ticket, identity, limit)
        self._target = target
        self._allowed = allowed
        self._listener: Optional[Listener] = None
        self._rejections = 0
        self._rejections_since = 0.0

    def run(self) -> None:
        backoff = Backoff()
        while not self.stopping.is_set():
            started = time.monotonic()
            try:
                self._listen()
            except (OSError, OffsetError) as error:
                backoff.listener_ended(time.monotonic() - started)
                delay = backoff.next()
                log(f"not listening: {reason_of(error)}; retrying in {delay:.1f} s")
                self.stopping.wait(delay)

    def stop(self) -> None:
        super().stop()
        if self._listener is not None:
            self._listener.close(STOP_TIMEOUT)

    def _listen(self) -> None:
        with listen(self.ticket, self.identity) as self._listener:
            log(
                f"forward ready: serving {self._target} to {len(self._allowed)} keys, "
                f"public key {encode_key(self.identity.public_key)}, through {self.ticket.address}"
            )
            for incoming in self._listener:
                self._answer(incoming)

    def _answer(self, incoming: Incoming) -> None:
        key = encode_key(incoming.public_key)
        if incoming.public_key not in self._allowed:
            incoming.reject()
            self._log_rejection(f"rejected: {key} is not allowed")
        elif not self.slots.acquire(blocking=False):
            incoming.reject()
            self._log_rejection(f"rejected: {key}, the limit of --max is reached")
        else:
            self.start(key, lambda _name: self._accept(incoming))

    def _accept(self, incoming: Incoming) -> Bridge:
        # So far only the relay has verified the key. The end-to-end handshake proves it to this side,
        # and comes before the TCP server sees a connection.
        tunnel = incoming.accept(end_to_end=True)
        try:
            sock = socket.create_connection(self._target, TARGET_TIMEOUT)
            prepare(sock)
        except OSError as error:
            tunnel.close(timeout=None)
            raise ServiceError(f"no TCP connection to {self._target}: {reason_of(error)}") from error
        return Bridge(sock, tunnel)

    def _log_rejection(self, text: str) -> None:
        now = time.monotonic()
        if now - self._rejections_since > REJECTIONS_WINDOW:
            if self._rejections > REJECTIONS_LOGGED:
                log(f"rejected {self._rejections - REJECTIONS_LOGGED} more in the last minute")
            self._rejections, self._rejections_since = 0, now
        self._rejections += 1
        if self._rejections <= REJECTIONS_LOGGED:
            log(text)


class Dial(Side):
    """Forward the TCP connections to one port.

    Args:
        peer: 32 bytes, the public key of the serve to connect to.
        server: a listening socket.
        patience: seconds that a TCP connection waits for the peer.
    """

    def __init__(
        self,
        ticket: RelayTicket,
        identity: Identity,
        limit: int,
        peer: bytes,
        server: socket.socket,
        patience: float,
    ) -> None:
        super().__init__(ticket, identity, limit)
        self._peer = peer
        self._server = server
        self._patience = patience

    def run(self) -> None:
        log(
            f"forward ready: listening on {Address(*self._server.getsockname()[:2])}, "
            f"public key {encode_key(self.identity.public_key)}, to {encode_key(self._peer)}"
        )
        while not self.stopping.is_set():
            self.slots.acquire()  # at the limit, new connections wait in the accept queue of the system
            try:
                sock, address = self._server.accept()
            except OSError as error:
                self.slots.release()
                if not self.stopping.is_set():
                    log(f"cannot accept a TCP connection: {reason_of(error)}")
                    self.stopping.wait(ACCEPT_PAUSE)
            else:
                self.start(str(Address(*address[:2])), partial(self._connect_bridge, sock))

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes `accept`; close() would not
        super().stop()

    def _connect_bridge(self, sock: socket.socket, name: str) -> Bridge:
        try:
            prepare(sock)
            return Bridge(sock, self._connect(name))
        except BaseException:
            sock.close()
            raise

    def _connect(self, name: str) -> Tunnel:
        """Connect to the peer; retry while the peer or the relay is not available."""
        deadline = Deadline(self._patience)
        backoff = Backoff()
        logged = False
        while True:
            try:
                return connect(
                    self.ticket,
                    self.identity,
                    self._peer,
                    end_to_end=True,
                    timeout=min(HANDSHAKE_TIMEOUT, deadline.left()),
                    accept_timeout=min(WAITING_CONNECT_TIMEOUT, deadline.left()),
                )
            except ConnectError as error:
                delay = backoff.next()
                if error.step is Step.END_TO_END or delay >= deadline.left():
                    raise  # another program uses the peer's key, or the time is up
                if not logged:
                    log(f"{name}: not connected: {error}; retrying for {deadline.left():.0f} s")
                logged = True
                if self.stopping.wait(delay):
                    raise
