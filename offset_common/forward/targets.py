"""Connects streams to the shared services, each in a thread of its own.

A thread may wait for seconds, longer than its stream lives. So threads are counted beside the connections: a
caller that opens and resets streams has no more of them than one that leaves its streams open.
"""

from __future__ import annotations

from functools import partial
from typing import Callable, Optional, Union

from offset_common.forward.display import Display
from offset_common.forward.event_loop import EventLoop
from offset_common.forward.local import LocalConnection, reason_of
from offset_common.forward.services import Service
from offset_common.forward.shared_session import SharedSession
from offset_common.forward.traffic import Traffic


class Targets:
    """The services of the sharing side.

    Args:
        loop: the event loop.
        services: by name.
        traffic: counts the connections.
        most: connections at a time; more are refused.
        display: shows refusals.
    """

    def __init__(
        self, loop: EventLoop, services: dict[str, Service], traffic: Traffic, most: int, display: Display
    ) -> None:
        self._loop = loop
        self._services = services
        self._traffic = traffic
        self._most = most
        self._display = display
        self._connecting = 0  # threads

    def connect(self, session: SharedSession, name: str) -> Union[LocalConnection, str]:
        """Return a connection for a new stream, or the reason for a refusal."""
        service = self._find(name)
        refusal = self._refusal_of(service, name)
        if service is not None and not refusal:
            local = session.new_local(self._traffic.end)
            try:
                self._loop.in_thread("service", partial(self._connect_in_thread, service, local))
            except OSError as error:
                refusal = str(error)
            else:
                self._connecting += 1
                what = f"{service.name} for {session.peer}"
                self._traffic.begin(local, what, peer=session.peer, service=service.name)
                return local
        text = f"refused a connection from {session.peer}: {refusal}"
        self._display.repeated_event("refused", text, peer=session.peer, service=name)
        return refusal

    def _find(self, name: str) -> Optional[Service]:
        if not name and len(self._services) == 1:
            return next(iter(self._services.values()))
        return self._services.get(name)

    def _refusal_of(self, service: Optional[Service], name: str) -> str:
        if service is None:
            called = f"no service is called {name[:40]!r}" if name else "there is more than one service"
            return f"{called}; name one of: {', '.join(self._services)}"
        full = max(self._traffic.open, self._connecting) >= self._most
        return "it has too many connections" if full else ""

    def _connect_in_thread(self, service: Service, local: LocalConnection) -> Callable[[], object]:
        try:
            sock = service.connect()
        except OSError as error:
            reason = f"no connection to {service.target}: {reason_of(error)}"
            return partial(self._connected, lambda: local.fail(reason))
        return partial(self._connected, lambda: local.start(sock))

    def _connected(self, report: Callable[[], object]) -> None:
        self._connecting -= 1
        report()
