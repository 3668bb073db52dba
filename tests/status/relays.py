"""Relays that serve their status, and requests to them."""

from __future__ import annotations

import contextlib
import json
import socket
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

from tests.support.process import PATIENCE, LoggedProcess
from tests.support.relay_process import LOCALHOST, RelayProcess, write_identity


class Reply(NamedTuple):
    """An answer of the status server."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


def get(relay: LoggedProcess, path: str, **headers: str) -> Reply:
    """Return what the status server of a relay answers to a request."""
    with contextlib.closing(HTTPConnection(LOCALHOST, relay.status_port, timeout=PATIENCE)) as connection:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())


class RelayWithStatus(RelayProcess):
    """A relay process with --status.

    Args:
        directory: for its identity.
        options: more of its command line.
        status: the address of its status.
    """

    def __init__(self, directory: Path, *options: str, status: str = f"{LOCALHOST}:0") -> None:
        super().__init__(write_identity(directory), options=["--status", status, *options])
        self.url = f"http://{LOCALHOST}:{self.status_port}"

    def get(self, path: str, **headers: str) -> Reply:
        """Return the answer to a request."""
        return get(self, path, **headers)

    def status(self, query: str = "") -> Any:
        """Return /status.json."""
        reply = self.get("/status.json" + query)
        assert reply.status == 200, reply
        return reply.json

    def connect(self) -> socket.socket:
        """Return a connection to the status server."""
        return socket.create_connection((LOCALHOST, self.status_port), PATIENCE)

    def exchange(self, data: bytes) -> bytes:
        """Return all that the status server answers to bytes."""
        with self.connect() as sock:
            sock.sendall(data)
            return read_all(sock)


def read_all(sock: socket.socket) -> bytes:
    """Return what comes until the end of a connection."""
    data = b""
    while part := sock.recv(65536):
        data += part
    return data
