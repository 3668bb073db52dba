"""The status server without a relay."""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from typing import Any

import pytest

from offset_common.status import http_server
from offset_common.status.http_server import ANSWER_TIME, LINGER_TIME, HttpServer
from offset_common.status.request import sentence
from tests.status.relays import read_all
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import LOCALHOST


class FullSocket(socket.socket):
    """A listening socket that finds no descriptor left the first time."""

    full = True

    def accept(self) -> Any:
        if self.full:
            self.full = False
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().accept()


@contextmanager
def serving(*listeners: socket.socket) -> Iterator[HttpServer]:
    """Answer every request at some sockets with "fine"; yield the server."""
    server = HttpServer(list(listeners), lambda request: sentence(HTTPStatus.OK, "fine"))
    for each in listeners:
        each.setblocking(False)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def test_descriptors_that_run_out_at_two_sockets_stop_no_status() -> None:
    listeners, clients = [], []
    for _ in range(2):
        listener = FullSocket()
        listener.bind((LOCALHOST, 0))
        listener.listen()
        listeners.append(listener)
        client = socket.create_connection(listener.getsockname(), PATIENCE)
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        clients.append(client)
    with serving(*listeners):
        for client in clients:
            with client:
                assert read_all(client).endswith(b"fine\n")


class Clock:
    """A clock that a test advances; it replaces the module `time`."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_a_body_that_takes_long_does_not_cost_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(http_server, "time", clock)
    listener = socket.create_server((LOCALHOST, 0))
    with serving(listener) as server, socket.create_connection(listener.getsockname(), PATIENCE) as sock:

        def lingers() -> bool:
            return [each.deadline for each in list(server._clients)] == [clock.now + LINGER_TIME]

        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 6000\r\n\r\n")
        wait_until(lingers, "the answer")
        for _ in range(6):
            clock.now += LINGER_TIME / 4
            sock.sendall(bytes(1000))
            wait_until(lingers, "more time for the body")
        assert read_all(sock).startswith(b"HTTP/1.1 ")


def test_a_client_that_keeps_sending_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(http_server, "time", clock)
    listener = socket.create_server((LOCALHOST, 0))
    with serving(listener) as server, socket.create_connection(listener.getsockname(), PATIENCE) as sock:

        def waits_until(end: float) -> bool:
            return [each.deadline for each in list(server._clients)] == [end]

        sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
        wait_until(lambda: waits_until(clock.now + LINGER_TIME), "the answer")
        end = clock.now + ANSWER_TIME
        while clock.now < end - LINGER_TIME:
            clock.now += LINGER_TIME / 2
            sock.sendall(b"more")
            wait_until(lambda: waits_until(clock.now + LINGER_TIME), "more time to close")
        clock.now += LINGER_TIME / 2
        sock.sendall(b"more")
        wait_until(lambda: waits_until(end), "the last moment")
        clock.now = end
        sock.sendall(b"more")
        wait_until(lambda: not server._clients, "the end of the connection")


def test_a_slow_request_is_ended_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "REQUEST_TIME", 0.5)
    listener, stop = socket.create_server((LOCALHOST, 0)), threading.Event()
    begin = time.monotonic()
    with serving(listener), socket.create_connection(listener.getsockname(), PATIENCE) as sock:

        def send_slowly() -> None:
            sock.sendall(b"GET / HTTP/1.1\r\n")
            with suppress(OSError):
                while not stop.wait(0.05):
                    sock.sendall(b"A: b\r\n")

        sending = threading.Thread(target=send_slowly)
        sending.start()
        try:
            assert read_all(sock).startswith(b"HTTP/1.1 408 ")
            assert time.monotonic() - begin > 0.4
        finally:
            stop.set()
            sending.join()
