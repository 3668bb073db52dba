"""The status server without a relay."""

from __future__ import annotations

import errno
import os
import socket
from http import HTTPStatus
from typing import Any

from offset_common.status.http_server import HttpServer
from offset_common.status.request import sentence
from tests.status.relays import read_all
from tests.support.process import PATIENCE
from tests.support.relay_process import LOCALHOST


class FullSocket(socket.socket):
    """A listening socket that finds no descriptor left the first time."""

    full = True

    def accept(self) -> Any:
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


def test_descriptors_that_run_out_at_two_sockets_stop_no_status():
    listeners, clients = [], []
    for _ in range(2):
        listener = FullSocket()
        listener.bind((LOCALHOST, 0))
        listener.listen()
        listener.setblocking(False)
        listeners.append(listener)
        client = socket.create_connection(listener.getsockname(), PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        clients.append(client)
    server = HttpServer(list(listeners), lambda request: sentence(HTTPStatus.OK, "fine"))
    server.start()
    try:
        for client in clients:
            with client:
                assert read_all(client).endswith(b"fine\n")
    finally:
        server.stop()
