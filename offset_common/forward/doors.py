"""Listening sockets on this machine, whose connections are forwarded to a service of the other side."""

from __future__ import annotations

import socket
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Callable, Optional

from offset_common.forward.display import Display
from offset_common.forward.event_loop import READ, EventLoop, Timer
from offset_common.forward.local import LocalConnection, close_with_reset, reason_of
from offset_common.forward.reach import Reach
from offset_common.forward.services import Place, describe, listen
from offset_common.forward.traffic import Traffic

ACCEPTS_AT_ONCE = 64
ACCEPT_PAUSE = 0.25  # seconds without accepting after accept() failed


class Door:
    """A listening socket.

    Args:
        loop: the event loop.
        place: where to listen, and the service that it leads to.
        entered: called with this door and each new socket.
        display: shows problems.

    Raises:
        ServiceError: the system refuses the address.
    """

    def __init__(
        self,
        loop: EventLoop,
        place: Place,
        entered: Callable[[Door, socket.socket], object],
        display: Display,
    ) -> None:
        self.service = place.service
        self._loop = loop
        self._where = place.where
        self._entered = entered
        self._display = display
        self._sock = listen(place.where)
        self._sock.setblocking(False)
        self._pause: Optional[Timer] = None
        self._loop.watch(self._sock, READ, self)

    @property
    def name(self) -> str:
        """The address or path."""
        if isinstance(self._where, str):
            return self._where
        return describe(self._where._replace(port=self._sock.getsockname()[1]))

    def close(self) -> None:
        """Stop accepting."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.watch(self._sock, 0, self)
        if isinstance(self._where, str):  # before the socket is closed, or this might be another program's
            with suppress(OSError):
                Path(self._where).unlink()
        self._sock.close()

    def on_ready(self, _events: int) -> None:
        """Accept some connections."""
        with suppress(BlockingIOError):
            for _ in range(ACCEPTS_AT_ONCE):
                self._entered(self, self._sock.accept()[0])

    def on_failure(self, error: Exception) -> None:
        """Pause: the system may have no descriptors left."""
        self._display.repeated_event("accept_failed", f"cannot accept a connection: {reason_of(error)}")
        self._loop.watch(self._sock, 0, self)
        self._pause = self._loop.call_later(ACCEPT_PAUSE, partial(self._loop.watch, self._sock, READ, self))


class Forwarding:
    """Forwards local sockets to services of the other side.

    Args:
        reach: the connecting side.
        traffic: counts the connections.
        most: the maximum number of connections at a time; further connections are reset.
        display: shows problems.
    """

    def __init__(self, reach: Reach, traffic: Traffic, most: int, display: Display) -> None:
        self._reach = reach
        self._traffic = traffic
        self._most = most
        self._display = display

    def enter(self, door: Door, sock: socket.socket) -> None:
        """Forward a connection to a door."""
        if self._traffic.open >= self._most:
            self._display.repeated_event("too_many", f"more than {self._most} connections; one was reset")
            close_with_reset(sock)
        else:
            self.forward(sock, door.service, door.name, lambda reason: None)

    def forward(self, sock: socket.socket, service: str, origin: str, ended: Callable[[str], object]) -> None:
        """Forward one socket.

        Args:
            sock: a connected socket.
            service: the service's name, or an empty string for the only service.
            origin: the origin of the connection, for people.
            ended: called at the end with the reason; an empty one for an orderly end.
        """

        def report(local: LocalConnection, reason: str) -> None:
            self._traffic.end(local, reason)
            ended(reason)

        local = self._reach.open(service, report)
        to_service = f" to {service}" if service else ""
        self._traffic.begin(local, f"from {origin}{to_service}", service=service)
        local.start(sock)
