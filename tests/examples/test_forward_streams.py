"""examples/forward.py passes every byte, both ways, as TCP would."""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from urllib.request import urlopen

from tests.examples.programs import (
    PATIENCE,
    Setting,
    echo,
    exchange,
    reach,
    read_all,
    read_exactly,
    server,
)
from tests.support.relay_process import LOCALHOST


def test_parallel_downloads_are_complete(setting: Setting) -> None:
    served = setting.directory / "served"
    served.mkdir()
    digests = {}
    for size in (0, 1, 1000, 65536, 3_000_000, 10_000_000):
        content = os.urandom(size)
        (served / str(size)).write_bytes(content)
        digests[str(size)] = hashlib.sha256(content).digest()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    def download(name: str) -> bytes:
        with urlopen(f"http://{LOCALHOST}:{port}/{name}", timeout=PATIENCE) as response:
            return hashlib.sha256(response.read()).digest()

    with ThreadingHTTPServer((LOCALHOST, 0), partial(Quiet, directory=str(served))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        port = setting.both(http.server_port)
        names = list(digests) * 2
        with ThreadPoolExecutor(len(names)) as pool:
            assert list(pool.map(download, names)) == [digests[name] for name in names]
        http.shutdown()


def test_answer_after_the_end_of_the_request_arrives(setting: Setting) -> None:
    with server(lambda sock: sock.sendall(hashlib.sha256(read_all(sock)).digest())) as target:
        with reach(setting.both(target)) as sock:
            request = os.urandom(300_000)
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == hashlib.sha256(request).digest()
        for program in setting.programs:
            program.wait_for_line("connection 1: ended")


def test_request_after_the_end_of_the_answer_arrives(setting: Setting) -> None:
    heard: Queue[bytes] = Queue()

    def answer(sock: socket.socket) -> None:
        sock.sendall(b"go on")
        sock.shutdown(socket.SHUT_WR)
        heard.put(read_all(sock))

    with server(answer) as target:
        with reach(setting.both(target)) as sock:
            assert read_all(sock) == b"go on"
            sock.sendall(b"more")
        for program in setting.programs:
            program.wait_for_line("connection 1: ended")
        assert heard.get(timeout=PATIENCE) == b"more"


def test_bulk_data_passes_both_ways_at_once(setting: Setting) -> None:
    size = 16_000_000
    content = os.urandom(size)
    with server(echo) as target, reach(setting.both(target)) as sock, ThreadPoolExecutor() as pool:
        sending = pool.submit(sock.sendall, content)
        assert read_exactly(sock, size) == content
        sending.result(PATIENCE)


def test_single_bytes_are_not_delayed(setting: Setting) -> None:
    # The server answers the first of two bytes with nothing but a delayed acknowledgement, after 40 ms.
    first_came = threading.Semaphore(0)

    def answer(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while first := sock.recv(1):
            first_came.release()
            sock.sendall(first + sock.recv(1))

    with server(answer) as target, reach(setting.both(target)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        times = []
        for _ in range(60):
            sock.sendall(b"1")
            assert first_came.acquire(timeout=PATIENCE)
            began = time.monotonic()
            sock.sendall(b"2")
            assert read_exactly(sock, 2) == b"12"
            times.append(time.monotonic() - began)
        assert sorted(times)[40] < 0.03


def test_stopped_reader_holds_up_only_its_sender(setting: Setting) -> None:
    sent = [0]
    stalled = threading.Event()

    def flood(sock: socket.socket) -> None:
        if sock.recv(1) == b"e":
            return echo(sock)
        sock.settimeout(1.0)
        with contextlib.suppress(socket.timeout):
            while sent[0] < 1_000_000_000:
                sent[0] += sock.send(bytes(65536))
        return stalled.set()

    with server(flood) as target:
        port = setting.both(target)
        with reach(port) as slow, reach(port) as other:
            slow.sendall(b"f")
            other.sendall(b"e")
            assert exchange(other, b"beside it") == b"beside it"
            assert stalled.wait(PATIENCE), f"{sent[0]} bytes were taken, without an end"
            assert exchange(other, b"still") == b"still"


def test_many_connections_keep_their_data_apart(setting: Setting) -> None:
    with server(echo) as target, contextlib.ExitStack() as open_sockets:
        port = setting.both(target)
        socks = [open_sockets.enter_context(reach(port)) for _ in range(40)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%08d" % number)
        for number, sock in enumerate(socks):
            assert read_exactly(sock, 8) == b"%08d" % number


def test_connection_over_the_limit_waits(setting: Setting) -> None:
    with server(echo) as target:
        serving = setting.serve(target, "--max", "1")
        _, port = setting.dial()
        with reach(port) as second, contextlib.ExitStack() as first_open:
            first = first_open.enter_context(reach(port))
            # The one that came first has the only place.
            second.sendall(b"b")
            first.sendall(b"a")
            serving.wait_for_line("rejected: .*, the limit of --max is reached")
            serving.wait_for_line("connection 1: from")
            ready = wait_for_either(first, second)
            assert ready.recv(1) == (b"a" if ready is first else b"b")
            rest = second if ready is first else first
            ready.close()
            assert rest.recv(1) == (b"a" if rest is first else b"b")


def wait_for_either(first: socket.socket, second: socket.socket) -> socket.socket:
    readable, _, _ = select.select([first, second], [], [], PATIENCE)
    assert len(readable) == 1
    found: socket.socket = readable[0]
    return found
