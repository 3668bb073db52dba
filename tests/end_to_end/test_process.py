"""strelay.py as its owner sees it: starting, the log, stopping, and what is said when it cannot start."""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.end_to_end.conftest import StartRelay
from tests.end_to_end.peer import Node, Place, raw, tunnel
from tests.end_to_end.relay_process import (
    PATIENCE,
    ROOT,
    RelayProcess,
    command,
    without_rights,
    write_identity,
)

F_SETPIPE_SZ = 1031  # of Linux; the name came to Python with 3.10


def meet(place: Place) -> None:
    """Let two nodes meet through the relay."""
    with Node(place) as caller, Node(place) as callee:
        near, far = tunnel(caller, callee, callee.listen())
        near.send(b"there")
        assert far.receive() == b"there"


def fail_to_start(identity: Path, address: str, *options: str, prefix: Sequence[str] = ()) -> tuple[int, str]:
    """Run a relay that cannot start; return its status and what it says."""
    arguments = [*prefix, *command(identity, address, *options)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert done.stdout == ""
    return done.returncode, done.stderr


@contextlib.contextmanager
def unwatched(identity: Path, port: int, log: int) -> Iterator[Place]:
    """Run a relay whose log nobody reads, and see that it stops in order."""
    process = subprocess.Popen(command(identity, f"127.0.0.1:{port}"), cwd=ROOT, stderr=log)
    try:
        wait_until_it_listens(port)
        yield place_of(identity, port)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def place_of(identity: Path, port: int) -> Place:
    seed = json.loads(identity.read_text())["privateKey"]
    key = Ed25519PrivateKey.from_private_bytes(base64.urlsafe_b64decode(seed + "="))
    return Place(("127.0.0.1", port), raw(key.public_key()))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def wait_until_it_listens(port: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def first_free_for_all() -> int:
    """Return the lowest port that everybody may listen on."""
    try:
        return int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    except OSError:
        return 1024


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")


def test_the_first_line_says_where_it_listens_and_its_key(start_relay: StartRelay) -> None:
    relay = start_relay()
    assert relay.lines[0].startswith(f"relay ready: listening on 127.0.0.1:{relay.port}, public key ")
    assert relay.port > 0
    meet(relay.place())


def test_the_key_in_the_ready_line_is_the_one_that_its_ticket_has(tmp_path: Path) -> None:
    identity, ticket = write_identity(tmp_path), tmp_path / "relay.relay"
    arguments = ["relay-ticket", "-i", str(identity), "-a", "relay.example.com:4567", "-o", str(ticket)]
    subprocess.run([sys.executable, str(ROOT / "stmgr.py"), *arguments], check=True, timeout=PATIENCE)
    relay = RelayProcess(identity)
    relay.end()
    assert json.loads(ticket.read_text())["publicKey"] in relay.lines[0]


def test_a_name_is_listened_on(start_relay: StartRelay) -> None:
    meet(start_relay("localhost:0").place("localhost"))


@needs_ipv6
def test_ipv6_is_listened_on(start_relay: StartRelay) -> None:
    relay = start_relay("[::1]:0")
    assert relay.addresses == [f"[::1]:{relay.port}"]
    meet(relay.place("::1"))


@needs_ipv6
def test_every_ipv6_address_is_every_ipv4_address_as_well(start_relay: StartRelay) -> None:
    relay = start_relay("[::]:0")
    meet(relay.place("::1"))
    meet(relay.place("127.0.0.1"))
    relay.wait_for_line(r"^ended \[::1\]:\d+ .* tunnel: ")
    relay.wait_for_line(r"^ended 127\.0\.0\.1:\d+ .* tunnel: ")


def test_a_port_can_be_used_again_at_once(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    first = RelayProcess(identity)
    meet(first.place())
    first.end()
    second = RelayProcess(identity, f"127.0.0.1:{first.port}")
    meet(second.place())
    second.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_status_0_at_once_where_nobody_is_in_a_tunnel(
    start_relay: StartRelay, number: int
) -> None:
    relay = start_relay()
    with Node(relay.place()) as node:
        listener, idle, silent = node.listen(), node.open(), node.dial()
        started = time.monotonic()
        assert relay.stop(number) == 0
        assert time.monotonic() - started < 2.0
        assert listener.wait_for_end() == []
        assert idle.wait_for_end() == []
        silent.bytes_until_end()
    assert re.fullmatch(r"stopped after \d+ connections", relay.lines[-1])


def test_tunnels_run_on_for_the_drain_time_and_get_what_is_queued(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--drain", "1"])
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        near, far = tunnel(caller, callee, callee.listen())
        started = time.monotonic()
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        near.send(b"still here")
        assert far.receive() == b"still here"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", relay.port), 1).close()
        assert far.wait_for_end() == []
        assert near.wait_for_end() == []
        assert 0.9 < time.monotonic() - started < 3.0
        assert relay.process.wait(PATIENCE) == 0


def test_it_stops_as_soon_as_the_last_tunnel_is_over(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--drain", "60"])
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        near, far = tunnel(caller, callee, callee.listen())
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        near.close()
        assert far.wait_for_end() == []
        far.close()
        assert relay.process.wait(PATIENCE) == 0


def test_a_second_signal_ends_it_at_once(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--drain", "3600"])
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        tunnel(caller, callee, callee.listen())
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        started = time.monotonic()
        assert relay.stop() == 0
        assert time.monotonic() - started < 3.0


def test_each_connection_ends_with_one_line_with_address_key_role_reason_bytes_and_seconds(
    start_relay: StartRelay,
) -> None:
    relay = start_relay()
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        listener = callee.listen()
        near, far = tunnel(caller, callee, listener)
        ports = [peer.sock.getsockname()[1] for peer in (listener, near, far)]
        near.close()
        assert far.wait_for_end() == []
        far.close()
        listener.close()
        line = r"^ended 127.0.0.1:{} key={} {}: {}, \d+ bytes in, \d+ out, \d+\.\d s$"
        callee_key, caller_key = callee.public_key.hex()[:8], caller.public_key.hex()[:8]
        relay.wait_for_line(line.format(ports[0], callee_key, "listener", "the peer closed"))
        relay.wait_for_line(line.format(ports[1], caller_key, "tunnel", "the peer closed"))
        relay.wait_for_line(line.format(ports[2], callee_key, "tunnel", "the other end of the tunnel ended"))
    assert relay.stop() == 0
    for port in ports:
        assert len([each for each in relay.lines if f"127.0.0.1:{port} " in each]) == 1


def test_a_log_that_nobody_reads_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    fcntl.fcntl(writer, F_SETPIPE_SZ, 4096)
    identity, port = write_identity(tmp_path), free_port()
    with unwatched(identity, port, writer) as place:
        for _ in range(20):  # a line is over 100 bytes, and each time five connections end
            meet(place)
        assert not select.select([], [writer], [], 0)[1], "the pipe is not full"
        meet(place)
    os.close(reader)
    os.close(writer)


def test_a_log_whose_reader_is_gone_stops_nothing(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with unwatched(write_identity(tmp_path), free_port(), writer) as place:
        meet(place)
    os.close(writer)


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_without_a_standard_error_it_serves_and_stops_in_order(tmp_path: Path, closed: str) -> None:
    identity, port = write_identity(tmp_path), free_port()
    arguments = command(identity, f"127.0.0.1:{port}")
    process = subprocess.Popen(["sh", "-c", f'exec "$@" {closed}', "sh", *arguments], cwd=ROOT)
    try:
        wait_until_it_listens(port)
        meet(place_of(identity, port))
        # A connection that had the number 2 would get the log.
        assert str(Path(f"/proc/{process.pid}/fd/2").readlink()) == os.devnull
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def test_a_log_on_a_full_disk_stops_nothing(tmp_path: Path) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with unwatched(write_identity(tmp_path), free_port(), full) as place:
        for _ in range(5):
            meet(place)
    os.close(full)


def test_a_port_that_is_taken_is_one_line_and_status_1(relay: RelayProcess, tmp_path: Path) -> None:
    status, said = fail_to_start(write_identity(tmp_path), f"127.0.0.1:{relay.port}")
    assert status == 1
    assert said == (
        f"strelay: cannot listen on 127.0.0.1:{relay.port}: another program has this port; "
        "stop it, or choose another port\n"
    )


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("192.0.2.1:4567", "this host has no such address"),
        ("no-such-host.invalid:4567", "the name does not resolve"),
    ],
)
def test_an_address_that_is_not_this_hosts_is_one_line_and_status_1(
    tmp_path: Path, address: str, words: str
) -> None:
    status, said = fail_to_start(write_identity(tmp_path), address)
    assert (status, said.count("\n")) == (1, 1)
    assert words in said


@pytest.mark.skipif(first_free_for_all() <= 1, reason="every port is free for all on this host")
def test_a_port_without_the_right_to_it_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    status, said = fail_to_start(write_identity(tmp_path), "127.0.0.1:1", prefix=without_rights())
    assert (status, said.count("\n")) == (1, 1)
    assert "no right to port 1; choose one from 1024 on" in said


def test_an_identity_that_may_not_be_read_is_one_line_and_status_1(tmp_path: Path) -> None:
    prefix = without_rights()
    identity = write_identity(tmp_path)
    identity.chmod(0)
    status, said = fail_to_start(identity, "127.0.0.1:0", prefix=prefix)
    assert (status, said.count("\n")) == (1, 1)
    assert str(identity) in said


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"privateKey": "short"}', b"\xff\xfe", b"[]"])
def test_an_identity_that_is_none_is_one_line_and_status_1(tmp_path: Path, content: bytes) -> None:
    identity = tmp_path / "relay.ident"
    if content is not None:
        identity.write_bytes(content)
    status, said = fail_to_start(identity, "127.0.0.1:0")
    assert (status, said.count("\n")) == (1, 1)
    assert str(identity) in said


@pytest.mark.parametrize(
    "options",
    [
        ["--connections", "0"],
        ["--buffers", "none"],
        ["--stall", "nan"],
        ["--drain", "-1"],
        ["--accepts", "1.5"],
        ["--per-key", "1" + "0" * 5000],
        ["--per-key", "0" * 19 + "1" + "0" * 20],
        ["--handshake-threads", "257"],
        ["--no-such-option"],
    ],
)
def test_wrong_usage_is_status_2(tmp_path: Path, options: list[str]) -> None:
    status, said = fail_to_start(write_identity(tmp_path), "127.0.0.1:0", *options)
    assert status == 2
    assert "Traceback" not in said
    assert options[0] in said


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.1:65536", ":1234", "::1:99", "[::1]", "a b:1"])
def test_what_is_no_address_is_refused_with_status_2(tmp_path: Path, address: str) -> None:
    status, said = fail_to_start(write_identity(tmp_path), address)
    assert status == 2
    assert "Traceback" not in said


def test_an_identity_that_others_can_read_is_warned_about_without_showing_it(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    identity.chmod(0o644)
    relay = RelayProcess(identity)
    relay.end()
    assert "chmod 600" in relay.lines[0]
    assert json.loads(identity.read_text())["privateKey"] not in "\n".join(relay.lines)


def test_it_gives_back_every_descriptor_and_thread(start_relay: StartRelay) -> None:
    relay = start_relay()
    proc = Path(f"/proc/{relay.process.pid}")

    def held() -> tuple[int, int]:
        return len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir()))

    meet(relay.place())
    relay.wait_for_line("^ended .* tunnel", count=2)
    before = held()
    for _ in range(3):
        threads = [threading.Thread(target=meet, args=(relay.place(),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    deadline = time.monotonic() + PATIENCE
    while held() != before:
        assert time.monotonic() < deadline, (before, held())
        time.sleep(0.02)
