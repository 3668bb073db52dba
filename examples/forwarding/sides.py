"""The two sides: serve listens at the relay, dial listens for TCP; each connection gets a tunnel of its own.

So nobody waits for anybody else's bytes, and a slow reader holds back its own sender only.

Source: section 7 of docs/protocol.md.
"""

from __future__ import annotations

import random
import socket
import sys
import threading
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import Callable, Optional

from examples.forwarding.bridge import Bridge, prepare, reason_of
from offset_common.address import Address
from offset_common.client import Deadline, Incoming, Listener, Step, Tunnel, connect, listen
from offset_common.constants import HANDSHAKE_TIMEOUT, WAITING_CONNECT_TIMEOUT
from offset_common.errors import ConnectError, OffsetError, ServiceError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket

FIRST_DELAY = 0.25  # seconds before the first new try
MAX_DELAY = 30.0  # seconds between tries at most
STEADY_TIME = 30.0  # seconds after which a listener's end starts the delays anew
ACCEPT_PAUSE = 0.25  # seconds without accepting after the system ran out of something
TARGET_TIMEOUT = 10.0  # seconds for the TCP server to answer
STOP_TIMEOUT = 2.0  # seconds for the connections to end when the program does
REFUSALS_LOGGED = 10  # in REFUSALS_WINDOW: anyone who has the relay's ticket can ask
REFUSALS_WINDOW = 60.0  # seconds
STOPPED = "forward.py was stopped"

_log_lock = threading.Lock()


def log(text: str) -> None:
    """Write one line to stderr; a terminal or pipe that is gone is no reason to end."""
    with _log_lock, suppress(OSError, ValueError):
        sys.stderr.write(text + "\n")
        sys.stderr.flush()


class Backoff:
    """How long to wait before each new try: twice as long each time, less a part by chance.

    The chance keeps many who lost the same relay from coming back all at once.
    """

    def __init__(self, chance: Callable[[], float] = random.random) -> None:
        self._chance = chance
        self._delay = FIRST_DELAY

    def next(self) -> float:
        """Return the seconds to wait now."""
        delay = self._delay
        self._delay = min(MAX_DELAY, delay * 2)
        return delay * (1 + self._chance()) / 2


class Side(ABC):
    """What serve and dial have in common: so many connections at a time, each in threads of its own.

    Args:
        ticket: of the relay.
        identity: who this side is.
        most: connections at a time.
    """

    def __init__(self, ticket: RelayTicket, identity: Identity, most: int) -> None:
        self.ticket = ticket
        self.identity = identity
        self.slots = threading.BoundedSemaphore(most)
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._bridges: set[Bridge] = set()
        self._count = 0

    @abstractmethod
    def run(self) -> None:
        """Take connections until `stop`."""

    def stop(self) -> None:
        """Take no more connections, and cut off those that there are."""
        self.stopping.set()
        deadline = Deadline(STOP_TIMEOUT)
        with self._lock:
            bridges = list(self._bridges)
        for bridge in bridges:
            bridge.cut_off(STOPPED)
        for bridge in bridges:
            bridge.finished.wait(deadline.left())

    def begin(self, origin: str, join: Callable[[str], Bridge]) -> None:
        """Forward one connection, in a thread; its slot is taken already.

        Args:
            origin: where it is from, for the log.
            join: makes the bridge, or raises why not; given the connection's name.
        """
        self._count += 1
        name = f"connection {self._count}"
        log(f"{name}: from {origin}")
        threading.Thread(target=self._forward, args=(name, join), daemon=True).start()

    def _forward(self, name: str, join: Callable[[str], Bridge]) -> None:
        try:
            log(f"{name}: {self._run(join(name))}")
        except (OSError, OffsetError) as error:
            log(f"{name}: not made: {reason_of(error)}")
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
    """Lets those who are allowed reach one TCP server.

    Args:
        target: the TCP server.
        allowed: public keys, 32 bytes each.
    """

    def __init__(
        self, ticket: RelayTicket, identity: Identity, most: int, target: Address, allowed: frozenset[bytes]
    ) -> None:
        super().__init__(ticket, identity, most)
        self._target = target
        self._allowed = allowed
        self._listener: Optional[Listener] = None
        self._refusals = 0
        self._refusals_since = 0.0

    def run(self) -> None:
        backoff = Backoff()
        while not self.stopping.is_set():
            began = time.monotonic()
            try:
                self._listen()
            except (OSError, OffsetError) as error:
                # A listener that another one keeps taking over does not count as a success.
                if time.monotonic() - began > STEADY_TIME:
                    backoff = Backoff()
                delay = backoff.next()
                log(f"not listening: {reason_of(error)}; trying again in {delay:.1f} s")
                self.stopping.wait(delay)

    def stop(self) -> None:
        super().stop()
        if self._listener is not None:
            self._listener.close(STOP_TIMEOUT)

    def _listen(self) -> None:
        with listen(self.ticket, self.identity) as self._listener:
            log(
                f"forward ready: {self._target} for {len(self._allowed)} allowed, "
                f"public key {encode_key(self.identity.public_key)}, through {self.ticket.address}"
            )
            for incoming in self._listener:
                self._answer(incoming)

    def _answer(self, incoming: Incoming) -> None:
        key = encode_key(incoming.public_key)
        if incoming.public_key not in self._allowed:
            incoming.reject()
            self._log_refusal(f"refused: {key} is not allowed")
        elif not self.slots.acquire(blocking=False):
            incoming.reject()
            self._log_refusal(f"refused for now: {key}, as many connections as --max says are open")
        else:
            self.begin(key, lambda name: self._join(incoming))

    def _join(self, incoming: Incoming) -> Bridge:
        # So far only the relay says who it is. The tunnel is first: it is there when the caller has
        # proven its key to us, and nobody else makes us touch the TCP server.
        tunnel = incoming.accept(end_to_end=True)
        try:
            sock = socket.create_connection(self._target, TARGET_TIMEOUT)
            prepare(sock)
        except OSError as error:
            tunnel.close()
            raise ServiceError(f"no TCP connection to {self._target}: {reason_of(error)}") from error
        return Bridge(sock, tunnel)

    def _log_refusal(self, text: str) -> None:
        now = time.monotonic()
        if now - self._refusals_since > REFUSALS_WINDOW:
            if self._refusals > REFUSALS_LOGGED:
                log(f"refused {self._refusals - REFUSALS_LOGGED} more in that minute")
            self._refusals, self._refusals_since = 0, now
        self._refusals += 1
        if self._refusals <= REFUSALS_LOGGED:
            log(text)


class Dial(Side):
    """Passes on the TCP connections that come to one port.

    Args:
        peer: the public key of the serve to reach, 32 bytes.
        server: the listening socket.
        patience: seconds that a connection waits for the peer.
    """

    def __init__(
        self,
        ticket: RelayTicket,
        identity: Identity,
        most: int,
        peer: bytes,
        server: socket.socket,
        patience: float,
    ) -> None:
        super().__init__(ticket, identity, most)
        self._peer = peer
        self._server = server
        self._patience = patience

    def run(self) -> None:
        log(
            f"forward ready: listening on {Address(*self._server.getsockname()[:2])}, "
            f"public key {encode_key(self.identity.public_key)}, to {encode_key(self._peer)}"
        )
        while not self.stopping.is_set():
            self.slots.acquire()  # over the limit they wait in the system's queue
            try:
                sock, address = self._server.accept()
            except OSError as error:
                self.slots.release()
                if not self.stopping.is_set():
                    log(f"no TCP connection taken: {reason_of(error)}")
                    self.stopping.wait(ACCEPT_PAUSE)
            else:
                self._take(sock, str(Address(*address[:2])))

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)  # wakes `accept`, as closing would not
        super().stop()

    def _take(self, sock: socket.socket, origin: str) -> None:
        self.begin(origin, lambda name: self._join(sock, name))

    def _join(self, sock: socket.socket, name: str) -> Bridge:
        try:
            prepare(sock)
            return Bridge(sock, self._connect(name))
        except BaseException:
            sock.close()
            raise

    def _connect(self, name: str) -> Tunnel:
        """Connect to the peer; as long as it or the relay is not there, again and again."""
        deadline = Deadline(self._patience)
        backoff = Backoff()
        told = False
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
                    raise  # somebody else is there in the peer's name, or the time is up
                if not told:
                    log(f"{name}: not yet: {error}; trying on for {deadline.left():.0f} s")
                told = True
                if self.stopping.wait(delay):
                    raise
