"""stforward passes every byte, both ways, as TCP would."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue

import pytest

from offset_common.forward.local import LINGER_RESET
from tests.forward.programs import (
    Setting,
    echo,
    exchange,
    reach,
    read_all,
    read_exactly,
    server,
    serving,
    wait_for_reset,
)
from tests.support.process import PATIENCE
from tests.support.relay_process import LOCALHOST


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_answer_after_the_end_of_the_request_arrives(setting: Setting, size: int) -> None:
    with server(lambda sock: sock.sendall(hashlib.sha256(read_all(sock)).digest())) as target:
        with reach(setting.both(target)) as sock:
            request = os.urandom(size)
            sock.sendall(request)
            sock.shutdown(socket.SHUT_WR)
            assert read_all(sock) == hashlib.sha256(request).digest()
        for program in setting.programs:
            program.wait_for_line("^connection 1: ended ")


def test_request_after_the_end_of_the_answer_arrives(setting: Setting) -> None:
    heard: Queue[bytes] = Queue()

    def answer(sock: socket.socket) -> None:
        sock.sendall(b"go on")
        sock.shutdown(socket.SHUT_WR)
        heard.put(read_all(sock))

    with server(answer) as target, reach(setting.both(target)) as sock:
        assert read_all(sock) == b"go on"
        sock.sendall(b"more")
        sock.shutdown(socket.SHUT_WR)
        assert heard.get(timeout=PATIENCE) == b"more"


def test_bulk_data_passes_both_ways_at_once(setting: Setting) -> None:
    content = os.urandom(12_000_000)
    with server(echo) as target, reach(setting.both(target)) as sock, ThreadPoolExecutor() as pool:
        sending = pool.submit(sock.sendall, content)
        assert read_exactly(sock, len(content)) == content
        sending.result(PATIENCE)


def test_200_connections_at_once_keep_their_data_apart(setting: Setting) -> None:
    with server(echo) as target, contextlib.ExitStack() as open_sockets:
        port = setting.both(target)
        socks = [open_sockets.enter_context(reach(port)) for _ in range(200)]
        for number, sock in enumerate(socks):
            sock.sendall(b"%08d" % number)
        for number, sock in enumerate(socks):
            assert read_exactly(sock, 8) == b"%08d" % number


def test_stopped_reader_holds_up_only_its_own_connection(setting: Setting) -> None:
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


def test_server_reset_is_passed_on(setting: Setting) -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    with server(reset) as target, reach(setting.both(target)) as sock:
        sock.sendall(b"?")
        wait_for_reset(sock)


def test_client_reset_is_passed_on(setting: Setting) -> None:
    outcome: Queue[str] = Queue()

    def answer(sock: socket.socket) -> None:
        sock.sendall(sock.recv(1))
        try:
            sock.recv(1)
        except ConnectionResetError:
            outcome.put("reset")
        else:
            outcome.put("ended")

    with server(answer) as target:
        with reach(setting.both(target)) as sock:
            assert exchange(sock, b"?") == b"?"
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        assert outcome.get(timeout=PATIENCE) == "reset"


def test_refusing_target_resets_the_connection(setting: Setting) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOCALHOST, 0))  # bound, and not listening: refused
        port = nobody.getsockname()[1]
        with reach(setting.both(port)) as sock:
            wait_for_reset(sock)
        for program in setting.programs:
            program.wait_for_line(
                f"^connection 1: cut off: no connection to localhost:{port}: connection refused"
            )


def test_missing_socket_may_have_an_undecodable_name(setting: Setting) -> None:
    setting.share("db=/nowhere/" + os.fsdecode(b"\xff"))
    with reach(setting.reach()[1]) as sock:
        wait_for_reset(sock)
    setting.programs[1].wait_for_line(r"^connection 1: cut off: no connection to /nowhere/\?: ")
    assert setting.programs[0].alive


def test_unix_sockets_lead_to_unix_sockets(setting: Setting, short_path: Path) -> None:
    there, here = str(short_path / "there.sock"), short_path / "here.sock"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(there)
        listening.listen()
        with serving(listening, echo):
            setting.share(f"db={there}")
            program = setting.to(f"db={here}")
            program.wait_for_line("^connected to ")
            assert here.stat().st_mode & 0o777 == 0o600
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(str(here))
                assert exchange(sock, b"hello") == b"hello"
                sock.shutdown(socket.SHUT_WR)
                assert read_all(sock) == b""
            assert program.stop() == 0
            assert not here.exists()


def test_socket_left_by_a_killed_process_is_replaced(setting: Setting, short_path: Path) -> None:
    path = short_path / "left.sock"
    with socket.socket(socket.AF_UNIX) as abandoned:
        abandoned.bind(str(path))
    setting.to(str(path)).wait_for_line("^listening on ")
    taken = setting.to(str(path))
    assert taken.wait() == 1
    assert taken.lines == [
        f"stforward: cannot listen on {path}: another program listens there, or a file has this name;"
        " choose another path"
    ]
