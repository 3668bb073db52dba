"""A small HTTP server in one thread: every connection gets one answer and is closed.

Clients cannot keep it busy: a request may take a few seconds and kilobytes, and at the limit of connections
the oldest is closed for a new one. Input after a request is read and dropped for a moment, because closing a
socket with unread bytes could cost the client its answer.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from http import HTTPStatus
from typing import Callable, Optional

from offset_common.status.request import (
    Answer,
    Request,
    RequestError,
    error_answer,
    head_size,
    parse_head,
    sentence,
)
from offset_common.threads import start

MAX_CONNECTIONS = 16
REQUEST_TIME = 5.0  # seconds from the connection to the end of the request's head
ANSWER_TIME = 10.0  # seconds for the client to receive the answer and to close
LINGER_TIME = 1.0  # seconds for it to close after the answer, or after it sent more
STOP_TIME = 1.0  # seconds for the thread to end
ACCEPTS_IN_ROUND = 8
ACCEPT_PAUSE = 0.25  # seconds without accepting after the system ran out of descriptors
READ_SIZE = 4096  # bytes

Respond = Callable[[Request], Answer]


class HttpServer:
    """Serves in a thread of its own, from `start` to `stop`.

    Args:
        sockets: bound and listening, non-blocking.
        respond: returns the answer to a request; called in the thread.
    """

    def __init__(self, sockets: list[socket.socket], respond: Respond) -> None:
        self._sockets = sockets
        self._respond = respond
        self._selector = selectors.DefaultSelector()
        self._clients: dict[_Client, None] = {}  # the oldest first
        self._paused_until = 0.0
        self._stopped = False
        self._retired = False
        self._wake_reader, self._wake_writer = socket.socketpair()
        self._selector.register(self._wake_reader, selectors.EVENT_READ)
        # A daemon: a thread that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def start(self) -> None:
        """Start serving."""
        for sock in self._sockets:
            self._selector.register(sock, selectors.EVENT_READ)
        start(self._thread)

    def retire(self) -> None:
        """Stop accepting; the thread ends with the last connection."""
        self._retired = True
        self._wake_writer.send(b"\0")

    def stop(self) -> None:
        """End all connections and the thread, and release every descriptor."""
        self._stopped = True
        self._wake_writer.send(b"\0")
        self._thread.join(STOP_TIME)
        if self._thread.is_alive():
            return  # it waits for an event loop that has ended, and ends with the process
        for client in list(self._clients):
            self._drop(client)
        self._wake_reader.close()
        self._wake_writer.close()
        self._selector.close()

    def _run(self) -> None:
        while not self._stopped and (self._clients or not self._retired):
            for key, _ in self._selector.select(self._time_to_wait()):
                if isinstance(key.data, _Client):
                    self._serve(key.data)
                elif key.fileobj in self._sockets and isinstance(key.fileobj, socket.socket):
                    self._accept(key.fileobj)
                elif key.fileobj is self._wake_reader:
                    self._wake_reader.recv(READ_SIZE)
            if self._retired:
                self._close_sockets()
            self._check_time()
        self._close_sockets()

    def _close_sockets(self) -> None:
        for sock in self._sockets:
            if not self._paused_until:
                self._selector.unregister(sock)
            sock.close()
        self._sockets = []

    def _time_to_wait(self) -> Optional[float]:
        times = [client.deadline for client in self._clients]
        if self._paused_until:
            times.append(self._paused_until)
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _check_time(self) -> None:
        now = time.monotonic()
        for client in [each for each in self._clients if each.deadline <= now]:
            if client.reading:
                client.answer(_error(HTTPStatus.REQUEST_TIMEOUT, "the request took too long"))
                self._serve(client)
            else:
                self._drop(client)
        if self._paused_until and now >= self._paused_until:
            self._paused_until = 0.0
            for sock in self._sockets:
                self._selector.register(sock, selectors.EVENT_READ)

    def _accept(self, listener: socket.socket) -> None:
        if self._paused_until:
            return  # another socket of the same poll found no descriptor left
        for _ in range(ACCEPTS_IN_ROUND):
            try:
                sock, _ = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            except OSError:
                self._pause()
                return
            sock.setblocking(False)
            if len(self._clients) >= MAX_CONNECTIONS:
                self._evict()
            client = _Client(sock)
            self._clients[client] = None
            self._selector.register(sock, selectors.EVENT_READ, client)

    def _pause(self) -> None:
        """Stop accepting for a moment: a listening socket that cannot be served stays readable."""
        for sock in self._sockets:
            self._selector.unregister(sock)
        self._paused_until = time.monotonic() + ACCEPT_PAUSE

    def _evict(self) -> None:
        """End the oldest connection to make room for a new one."""
        oldest = next(iter(self._clients))
        if oldest.reading:
            oldest.answer(_error(HTTPStatus.SERVICE_UNAVAILABLE, "too many connections; try again"))
            with contextlib.suppress(OSError):
                oldest.write()
        self._drop(oldest)

    def _serve(self, client: _Client) -> None:
        try:
            if client.reading:
                client.read(self._respond)
            if client.writing and client.write():
                client.linger()
            if client.lingering and client.discard():
                self._drop(client)
                return
        except BlockingIOError:
            pass
        except OSError:
            self._drop(client)
            return
        events = selectors.EVENT_WRITE if client.writing else selectors.EVENT_READ
        self._selector.modify(client.sock, events, client)

    def _drop(self, client: _Client) -> None:
        if client in self._clients:
            del self._clients[client]
            self._selector.unregister(client.sock)
            client.sock.close()


def _error(status: HTTPStatus, reason: str) -> bytes:
    return error_answer(RequestError(status, reason)).encode()


class _Client:
    """One connection: it reads a request, then writes the answer, then lingers until the client closes."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.deadline = time.monotonic() + REQUEST_TIME
        self.reading = True
        self.lingering = False
        self._received = b""
        self._unsent = memoryview(b"")
        self._end = 0.0  # of the time for the answer

    @property
    def writing(self) -> bool:
        """Whether part of the answer has not been sent yet."""
        return not self.reading and not self.lingering

    def read(self, respond: Respond) -> None:
        """Read part of the request; once it is complete, prepare the answer.

        Raises:
            OSError: the connection is lost, or (BlockingIOError) there is nothing to read.
        """
        data = self.sock.recv(READ_SIZE)
        self._received += data
        if not self._received:
            raise ConnectionResetError
        try:
            size = head_size(self._received)
            if not size and not data:
                raise RequestError(HTTPStatus.BAD_REQUEST, "the request ends before its headers do")
            if size:
                request = parse_head(self._received[:size])
                self.answer(_respond_safely(respond, request).encode(request.method != "HEAD"))
        except RequestError as error:
            self.answer(error_answer(error).encode())

    def answer(self, data: bytes) -> None:
        """Start sending `data` as the answer."""
        self.reading = False
        self._received = b""
        self._unsent = memoryview(data)
        self.deadline = self._end = time.monotonic() + ANSWER_TIME

    def write(self) -> bool:
        """Write what the socket accepts; return whether everything is written.

        Raises:
            OSError: the connection is lost, or (BlockingIOError) nothing can be written.
        """
        self._unsent = self._unsent[self.sock.send(self._unsent) :]
        return not self._unsent

    def linger(self) -> None:
        """Wait a moment for the client to close."""
        self.sock.shutdown(socket.SHUT_WR)
        self.lingering = True
        self._wait_for_close()

    def discard(self) -> bool:
        """Drop what the client sends, and give it a little more time; return whether it has closed.

        Raises:
            OSError: the connection is lost, or (BlockingIOError) there is nothing to read.
        """
        data = self.sock.recv(READ_SIZE)
        self._wait_for_close()
        return not data

    def _wait_for_close(self) -> None:
        self.deadline = min(self._end, time.monotonic() + LINGER_TIME)


def _respond_safely(respond: Respond, request: Request) -> Answer:
    try:
        return respond(request)
    except RequestError as error:
        return error_answer(error)
    except Exception as error:  # a bug costs one answer, not the status page
        return sentence(HTTPStatus.INTERNAL_SERVER_ERROR, f"an error in the status page: {error!r}")
