"""Handmade requests: long, slow, malformed or many, they get one clear answer and disturb nobody."""

from __future__ import annotations

import select
import socket
import threading

import pytest

from offset_common.status.http_server import MAX_CONNECTIONS
from tests.status.relays import RelayWithStatus, read_all
from tests.support.node import meet
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST

GOOD = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def status_of(answer: bytes) -> int:
    """Return the status code; check that the answer is complete, and the only one."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    assert separator, answer
    assert head.count(b"HTTP/1.1") == 1
    assert f"Content-Length: {len(body)}".encode() in head
    assert b"Connection: close" in head
    return int(head.split()[1])


def assert_unharmed(relay: RelayWithStatus) -> None:
    """Check that the relay still answers, and has logged no bug."""
    assert relay.get("/healthz").status == 200
    assert relay.failures == []


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400, b"plain HTTP, not TLS"),
        (b"\x00\x00\x00\x00\r\n\r\n", 400, b"not an HTTP request"),
        (b"nonsense\r\n\r\n", 400, b"bad request syntax"),
        (b"GET /\r\n\r\n", 400, b"METHOD PATH HTTP/1.1"),
        (b"GET / HTTP/x\r\n\r\n", 400, b"bad request version"),
        (b"GET / HTTP/2.0\r\n\r\n", 505, b"invalid HTTP version"),
        (b"\r\n\r\n\r\n", 400, b"request line is empty"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello", 405, b"only GET and HEAD"),
        (b"GET /passwd HTTP/1.1\r\n\r\n", 404, b"the only paths are /, /status.json, /metrics, /healthz"),
        (b"GET http://[/ HTTP/1.1\r\n\r\n", 400, b"malformed"),
        (b"GET /status.json?list=1&" + b"a=&" * 30 + b" HTTP/1.1\r\n\r\n", 400, b"malformed"),
        (b"GET /status.json?list=1&text=%ff HTTP/1.1\r\n\r\n", 400, b"malformed"),
        (b"GET /status.json?list=-1 HTTP/1.1\r\n\r\n", 400, b"list must be a whole number up to 1000"),
        (b"GET /status.json?list=" + b"9" * 5000 + b" HTTP/1.1\r\n\r\n", 400, b"list must be a whole number"),
        (
            b"GET /status.json?list=1&sort=__class__ HTTP/1.1\r\n\r\n",
            400,
            b"sort must be one of key, address",
        ),
        (b"GET /status.json?list=1&role=king HTTP/1.1\r\n\r\n", 400, b"role must be one of handshake"),
        (b"GET /status.json?list=1&order=up HTTP/1.1\r\n\r\n", 400, b"order must be asc or desc"),
        (
            b"GET /status.json?list=1&text=" + b"a" * 101 + b" HTTP/1.1\r\n\r\n",
            400,
            b"at most 100 characters",
        ),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403, b"set the Host header to localhost"),
        (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431, b"too many headers"),
        (b"GET / HTTP/1.1\r\nA: " + b"b" * 9000, 431, b"over 8192 bytes"),
    ],
)
def test_a_wrong_request_gets_one_clear_answer(
    data: bytes, status: int, reason: bytes, relay: RelayWithStatus
) -> None:
    answer = relay.exchange(data)
    assert status_of(answer) == status
    body = answer.partition(b"\r\n\r\n")[2]
    assert reason.lower() in body.lower()
    assert body.count(b"\n") == 1
    assert body.decode().strip().isprintable()
    assert_unharmed(relay)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9090", "[::1]:9090", "[::1]", "LOCALHOST:1"])
def test_local_host_names_are_served(host: str, relay: RelayWithStatus) -> None:
    answer = relay.exchange(b"GET /healthz HTTP/1.1\r\nHost: " + host.encode() + b"\r\n\r\n")
    assert status_of(answer) == 200
    assert_unharmed(relay)


def test_head_has_no_body(relay: RelayWithStatus) -> None:
    answer = relay.exchange(GOOD.replace(b"GET", b"HEAD"))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200")
    assert body == b""
    assert_unharmed(relay)


def test_a_large_body_does_not_cost_the_answer(relay: RelayWithStatus) -> None:
    with relay.connect() as sock:
        sock.sendall(b"POST / HTTP/1.1\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        assert status_of(read_all(sock)) == 405
    assert_unharmed(relay)


def test_a_request_in_single_bytes_is_served(relay: RelayWithStatus) -> None:
    with relay.connect() as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in GOOD:
            sock.sendall(bytes([byte]))
        assert status_of(read_all(sock)) == 200
    assert_unharmed(relay)


@pytest.mark.parametrize("data", [b"G", b"GET / HTTP/1.1\r\nHost: localhost\r\n"])
def test_request_that_ends_in_its_headers_is_answered(data: bytes, relay: RelayWithStatus) -> None:
    with relay.connect() as sock:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        answer = read_all(sock)
    assert status_of(answer) == 400
    assert b"the request ends before its headers do" in answer
    assert_unharmed(relay)


def test_two_requests_at_once_get_one_answer(relay: RelayWithStatus) -> None:
    assert status_of(relay.exchange(GOOD + GOOD)) == 200
    assert_unharmed(relay)


def test_silent_connections_keep_nobody_out(relay: RelayWithStatus) -> None:
    silent = [relay.connect() for _ in range(4 * MAX_CONNECTIONS)]
    try:
        assert relay.get("/healthz").status == 200
        assert not select.select(silent[-1:], [], [], 0)[0], "it waited for the ends of others"
        # The oldest made room, and were told so.
        assert status_of(read_all(silent[0])) == 503
        assert relay.descriptors < 60
    finally:
        for sock in silent:
            sock.close()
    assert_unharmed(relay)


def test_clients_that_do_not_read_keep_nobody_out(relay: RelayWithStatus) -> None:
    deaf = []
    try:
        for _ in range(2 * MAX_CONNECTIONS):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            sock.connect((LOCALHOST, relay.status_port))
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            deaf.append(sock)
        assert relay.get("/healthz").status == 200
    finally:
        for sock in deaf:
            sock.close()
    assert_unharmed(relay)


def test_many_requests_at_once_are_answered(relay: RelayWithStatus) -> None:
    answers: list[int] = []

    def ask() -> None:
        for _ in range(25):
            answers.append(relay.get("/status.json?list=100").status)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [200] * 200
    assert_unharmed(relay)


def test_a_flood_of_requests_disturbs_no_tunnel(relay: RelayWithStatus) -> None:
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                relay.exchange(b"\xff" * 10_000)
            except OSError:
                pass

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        meet(relay.endpoint())
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert_unharmed(relay)


def test_requests_write_no_log_lines(relay: RelayWithStatus) -> None:
    relay.wait_until_empty()  # the connections of earlier tests have ended
    before = len(relay.lines)
    for data in (GOOD, b"nonsense\r\n\r\n", GOOD.replace(b"healthz", b"status.json")):
        relay.exchange(data)
    relay.state()  # what is logged by now has been read after this
    assert relay.lines[before:-1] == []
    assert_unharmed(relay)


def test_clients_that_leave_release_their_descriptors(relay: RelayWithStatus) -> None:
    relay.get("/healthz")
    before = relay.descriptors
    for _ in range(100):
        relay.connect().close()
        with relay.connect() as sock:
            sock.sendall(GOOD)
    wait_until(lambda: relay.descriptors <= before, "the release of all descriptors")
    assert_unharmed(relay)
