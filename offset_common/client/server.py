"""Serve callers: listen at a relay, and call a handler with the tunnel of each caller.

    serve --> _listen (again and again, with backoff) --> _answer each connect
                                                             |-- reject: not allowed, or too many callers
                                                             +-- a thread: accept --> handler --> close

Each caller has its own thread, so a silent, slow or broken caller delays no other. Nothing that a caller or
the relay does ends the server.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from functools import partial
from typing import Callable, Optional

from offset_common.client.arguments import check_identity, check_public_key, check_ticket
from offset_common.client.backoff import Backoff
from offset_common.client.listener import Incoming, Listener, listen
from offset_common.client.tunnel import Tunnel
from offset_common.errors import ConnectionEnded, OffsetError, PeerError
from offset_common.identity import Identity, encode_key
from offset_common.threads import start_thread
from offset_common.tickets import RelayTicket

MAX_CALLERS = 64
LOGGER = logging.getLogger("offset.client")

Handler = Callable[[Tunnel], object]


class Server:
    """A server that can be stopped; see the function `serve` for the arguments."""

    def __init__(
        self,
        ticket: RelayTicket,
        identity: Identity,
        handler: Handler,
        *,
        allow: Optional[Iterable[bytes]],
        end_to_end: bool = True,
        max_callers: int = MAX_CALLERS,
    ) -> None:
        check_ticket(ticket)
        check_identity(identity)
        if not callable(handler):
            raise TypeError(f"handler must be a function with one argument, not {type(handler).__name__}")
        self._ticket = ticket
        self._identity = identity
        self._handler = handler
        self._allowed = None if allow is None else _key_set(allow)
        self._end_to_end = end_to_end
        # A slot becomes free when the caller's connection has ended, not when its handler returns.
        self._places = threading.BoundedSemaphore(max_callers)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._listener: Optional[Listener] = None

    def run(self) -> None:
        """Serve until `stop`; connect again whenever the relay ends the connection."""
        backoff = Backoff()
        while not self._stopping.is_set():
            start = time.monotonic()
            try:
                self._listen()
            except (OSError, OffsetError) as error:
                if self._stopping.is_set():
                    return
                backoff.listener_ended(time.monotonic() - start)
                delay = backoff.next()
                LOGGER.warning("not listening: %s; retrying in %.1f s", error, delay)
                self._stopping.wait(delay)

    def stop(self) -> None:
        """Accept no more callers and let `run` return; connected callers stay connected."""
        with self._lock:
            self._stopping.set()
            listener = self._listener
        if listener is not None:
            listener.close(timeout=0)

    def _listen(self) -> None:
        with listen(self._ticket, self._identity) as listener:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._listener = listener
            LOGGER.info("listening for %s", encode_key(self._identity.public_key))
            for incoming in listener:
                self._answer(incoming)

    def _answer(self, incoming: Incoming) -> None:
        if self._allowed is not None and incoming.public_key not in self._allowed:
            LOGGER.info("rejected %s: not allowed", encode_key(incoming.public_key))
            incoming.reject()
        elif not self._places.acquire(blocking=False):
            LOGGER.info("rejected %s: too many callers", encode_key(incoming.public_key))
            incoming.reject()
        else:
            self._start_caller(incoming)

    def _start_caller(self, incoming: Incoming) -> None:
        try:
            start_thread(partial(self._serve_caller, incoming), "offset caller")
        except OSError as error:
            self._places.release()
            LOGGER.warning("rejected %s: %s", encode_key(incoming.public_key), error)
            incoming.reject()

    def _serve_caller(self, incoming: Incoming) -> None:
        caller = encode_key(incoming.public_key)
        try:
            tunnel = incoming.accept(end_to_end=self._end_to_end)
        except (OSError, OffsetError) as error:
            LOGGER.info("no tunnel with caller %s: %s", caller, error)
        else:
            self._call_handler(tunnel, caller)
        finally:
            self._places.release()

    def _call_handler(self, tunnel: Tunnel, caller: str) -> None:
        try:
            self._handler(tunnel)
        except (ConnectionEnded, PeerError, TimeoutError) as error:
            LOGGER.info("caller %s: %s", caller, error)
        except Exception:
            LOGGER.exception("the handler failed for caller %s", caller)
        finally:
            tunnel.close(timeout=None)


def serve(
    ticket: RelayTicket,
    identity: Identity,
    handler: Handler,
    *,
    allow: Optional[Iterable[bytes]],
    end_to_end: bool = True,
    max_callers: int = MAX_CALLERS,
) -> None:
    """Listen at a relay, and call a handler with each caller's tunnel, in a thread of its own. Never return.

    The tunnel is closed when the handler returns or raises. A caller's errors end only its own tunnel. When
    the relay is unreachable, or ends the connection, the server reconnects with growing delays. It logs to
    the logger "offset.client". To stop a server from another thread, use the class Server.

    Args:
        ticket: the relay's ticket.
        identity: this node's identity.
        handler: called with a Tunnel; it may raise any exception.
        allow: the public keys, 32 bytes each, that may connect; None for every key.
        end_to_end: also encrypt between the two nodes; a caller that does not is disconnected.
        max_callers: the maximum number of callers at a time; further callers are rejected.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or is not a public key.

    Source: section 7 of docs/protocol.md.
    """
    Server(ticket, identity, handler, allow=allow, end_to_end=end_to_end, max_callers=max_callers).run()


def _key_set(keys: Iterable[bytes]) -> frozenset[bytes]:
    if isinstance(keys, (bytes, str)):
        raise TypeError("allow must be a list or a set of public keys, not one key")
    allowed = list(keys)
    for key in allowed:
        check_public_key("a key of allow", key)
    return frozenset(allowed)
