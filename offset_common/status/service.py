"""Start and stop the status server of a relay: the option --status."""

from __future__ import annotations

import logging
import socket
import time
from functools import partial
from typing import Optional, Protocol

from offset_common.address import Address, parse_listen_address
from offset_common.errors import ServiceError, os_error_sentence
from offset_common.identity import Identity, encode_key
from offset_common.networks import is_loopback
from offset_common.relay.addresses import show_address
from offset_common.relay.log import log_event
from offset_common.status.http_server import HttpServer
from offset_common.status.recent_log import RecentLog
from offset_common.status.report import NameOf, RelayFacts
from offset_common.status.routes import Routes
from offset_common.status.snapshots import Snapshots
from offset_common.status.survey import SurveyedRelay

LOOPBACK = "127.0.0.1"


class ServedRelay(SurveyedRelay, Protocol):
    """The parts of a relay that its status shows."""

    identity: Identity

    @property
    def addresses(self) -> list[str]:
        """Return the addresses that it listens on."""


def parse_status_address(text: str) -> Address:
    """Return the address of the option --status; a port alone means the loopback address.

    Raises:
        UsageError: it is invalid.
    """
    port = text[1:] if text.startswith(":") else text
    return parse_listen_address(f"{LOOPBACK}:{port}" if port.isascii() and port.isdigit() else text)


class StatusService:
    """The status server.

    Args:
        sockets: the listening sockets.
    """

    def __init__(self, sockets: list[socket.socket]) -> None:
        self._sockets = sockets
        self._log = RecentLog()
        self._server: Optional[HttpServer] = None

    def start(self, relay: ServedRelay, name_of: NameOf = lambda key: "") -> None:
        """Serve the status of a relay.

        Args:
            relay: the relay.
            name_of: returns the name of a key, for people; called in the status thread.

        Raises:
            ServiceError: the system refuses what the server needs.
        """
        public = [sock for sock in self._sockets if not is_loopback(sock.getsockname()[0])]
        # Not at once: a relay's log begins with the line "relay ready".
        relay.loop.call_soon(partial(self._announce, public))
        facts = RelayFacts(encode_key(relay.identity.public_key), tuple(relay.addresses), time.time())
        try:
            routes = Routes(facts, Snapshots(relay), self._log, name_of, any_host=bool(public))
            server = HttpServer(self._sockets, routes.respond)
            server.start()
        except OSError as error:
            for sock in self._sockets:
                sock.close()
            raise ServiceError(f"cannot serve the status: {os_error_sentence(error)}") from None
        self._server = server

    def _announce(self, public: list[socket.socket]) -> None:
        log_event("status ready", address=[show_address(sock.getsockname()) for sock in self._sockets])
        if public:
            log_event(
                "status is open to other machines",
                logging.WARNING,
                address=[show_address(sock.getsockname()) for sock in public],
                advice="it shows addresses and keys; use 127.0.0.1 and an SSH tunnel, or a proxy that asks"
                " for a password",
            )

    def retire(self) -> None:
        """Stop accepting: another process has the address now."""
        if self._server is not None:
            self._server.retire()

    def stop(self) -> None:
        """Stop serving."""
        self._log.close()
        if self._server is not None:
            self._server.stop()
