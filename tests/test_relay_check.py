"""stmgr relay-check: uses a relay like two nodes, and explains which step fails and why."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import select
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import stmgr
from offset_common.address import Address
from offset_common.client import Tunnel, dialing, start_tunnel
from offset_common.errors import PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.tools import measurements, relay_check
from offset_common.tools.failures import Cause
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import InitConnection, InitRole
from tests.commands import ROOT, run_python, run_script
from tests.support.channel import KeyPair
from tests.support.client import client_threads, play_relay, ticket_for, wait_for_end
from tests.support.hosts import unanswered_port
from tests.support.process import PATIENCE, free_port, wait_until
from tests.support.relay_process import LOCALHOST, relay, start_relay
from tests.terminals import run_in_terminal

__all__ = ["relay", "start_relay"]

STEPS = [
    "name lookup",
    "TCP connection",
    "version",
    "handshake",
    "listen",
    "connect",
    "accept",
    "message there",
    "message back",
]
MEASUREMENTS = ["round trips", "bulk"]
SHORT, LONG = "3", f"{PATIENCE:g}"  # seconds for each step: if one must time out, and if none may


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measurements, "BULK_SECONDS", 0.05)
    monkeypatch.setattr(measurements, "ROUND_TRIPS", 20)
    monkeypatch.setattr(measurements, "ROUND_TRIP_SECONDS", PATIENCE)


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run relay-check with a ticket; return its status and output."""

    def run(ticket: RelayTicket, *options: str) -> tuple[int, str]:
        path = tmp_path / "a.relay"
        path.unlink(missing_ok=True)
        ticket.save(path)
        status = stmgr.main(["relay-check", str(path), *options])
        out, err = capsys.readouterr()
        assert err == ""
        return status, out

    return run


def steps_of(out: str) -> list[str]:
    return re.findall(r"^  ok  ([A-Za-z ]*\w) +\d+\.\d ms", out, re.MULTILINE)


def test_a_working_relay_is_checked_and_measured(relay, check):
    status, out = check(relay.ticket)
    assert status == 0
    assert out.startswith(f"relay {encode_key(relay.ticket.public_key)} at {relay.ticket.address}\n")
    assert steps_of(out) == STEPS
    assert re.search(r"^round trip .*: p50 \d+\.\d ms, p99 \d+\.\d ms \(20 messages\)$", out, re.MULTILINE)
    assert re.search(r"^throughput, one way: \d+\.\d MB/s for \d+\.\d s", out, re.MULTILINE)
    assert out.endswith("\nthe relay works\n")
    assert "\x1b" not in out


def test_the_check_closes_all_connections_without_a_reset(start_relay, check):
    relay = start_relay()  # one of its own: the log leaves out lines when many connections have ended
    assert check(relay.ticket)[0] == 0
    relay.wait_until_empty()
    assert len(relay.ends()) == 3
    assert {end.reason for end in relay.ends()} <= {
        "the peer closed",
        "the other end of the tunnel ended",
    }
    wait_until(lambda: not client_threads())


def test_the_bulk_transfer_is_bounded(relay, check, monkeypatch):
    monkeypatch.setattr(measurements, "BULK_SECONDS", PATIENCE)
    monkeypatch.setattr(measurements, "BULK_LIMIT", 10 * measurements.BULK_SIZE)
    _, out = check(relay.ticket, "--json")
    assert json.loads(out)["bulk"]["bytes"] == 10 * measurements.BULK_SIZE


def test_a_quick_check_does_not_send_bulk_data(start_relay, check):
    relay = start_relay()  # likewise
    status, out = check(relay.ticket, "--quick", "--json")
    report = json.loads(out)
    assert (status, report["bulk"], report["roundTrip"]["count"]) == (0, None, 20)
    relay.wait_until_empty()
    assert max(end.received for end in relay.ends()) < measurements.BULK_SIZE


def test_the_json_report_has_all_steps_and_measurements(relay, check):
    status, out = check(relay.ticket, "--json")
    report = json.loads(out)
    assert (status, report["ok"], report["failure"]) == (0, True, None)
    assert report["publicKey"] == encode_key(relay.ticket.public_key)
    assert report["address"] == str(relay.ticket.address)
    assert [step["step"] for step in report["steps"]] == STEPS + MEASUREMENTS
    assert report["roundTrip"]["count"] == 20
    assert 0 < report["roundTrip"]["p50"] <= report["roundTrip"]["p99"] < PATIENCE
    bulk = report["bulk"]
    assert bulk["bytes"] >= measurements.BULK_SIZE
    assert bulk["bytesPerSecond"] == pytest.approx(bulk["bytes"] / bulk["seconds"], rel=1e-3)


def test_a_connect_before_the_listen_is_retried(relay, check, monkeypatch):
    connected = []
    real = start_tunnel

    def connect_to_another_first(dialing, init, **options):
        if init.role is InitRole.CONNECT:
            connected.append(init)
            if len(connected) == 1:  # the relay treats a connect that is too early like one to an unknown key
                init = InitConnection(InitRole.CONNECT, Identity.generate().public_key)
        return real(dialing, init, **options)

    monkeypatch.setattr(relay_check, "start_tunnel", connect_to_another_first)
    status, out = check(relay.ticket)
    assert status == 0
    assert len(connected) == 2
    assert "announced to the listener, attempt 2" in out


def failure_of(check: Check, ticket: RelayTicket, step: str, cause: Cause, *options: str) -> dict[str, str]:
    """Expect a failure in JSON and, unless a step must time out, in lines; return it as in JSON."""
    status, report = check(ticket, "--json", *options)
    assert (status, json.loads(report)["ok"]) == (1, False)
    failure: dict[str, str] = json.loads(report)["failure"]
    assert (failure["step"], failure["cause"]) == (step, cause.value)
    if SHORT in options:
        return failure
    status, out = check(ticket, *options)
    assert status == 1
    assert f"  FAILED  {step}\n" in out
    assert steps_of(out) == STEPS[: STEPS.index(step)]
    assert f"\nwhat to check: {failure['advice']}\n" in out
    assert "{" not in out, "an unfilled placeholder"
    return failure


def test_a_wrong_key_is_reported_with_both_keys(relay, check):
    ticket = RelayTicket(Identity.generate().public_key, relay.ticket.address)
    failure = failure_of(check, ticket, "handshake", Cause.WRONG_KEY)
    found, expected = encode_key(relay.ticket.public_key), encode_key(ticket.public_key)
    reason = f"another identity: its key is {found}, but the key in the ticket is {expected}"
    assert failure["reason"] == f"the relay at {ticket.address} has {reason}"


def test_a_closed_port_is_reported(check):
    port = free_port()
    failure = failure_of(check, ticket_for(port), "TCP connection", Cause.NOTHING_LISTENS)
    assert str(port) in failure["advice"]


@pytest.mark.parametrize("number", [errno.EHOSTUNREACH, errno.EACCES, errno.EPERM])
def test_advice_for_no_route_mentions_firewalls(number, check, monkeypatch):
    def reject(*_: object) -> socket.socket:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(dialing, "connect_to_first", reject)
    failure = failure_of(check, ticket_for(1337), "TCP connection", Cause.UNREACHABLE)
    assert "whether a firewall here or there rejects connections to port 1337" in failure["advice"]


def test_a_connection_that_is_reset_at_once_is_reported(check, monkeypatch):
    with socket.create_server((LOCALHOST, 0)) as server:

        def open_and_reset(address: Address, *rest: object) -> socket.socket:
            ours = socket.create_connection((address.host, address.port))
            theirs, _ = server.accept()
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.close()
            poll = select.poll()
            poll.register(ours, 0)  # POLLHUP is always reported
            assert poll.poll(PATIENCE * 1000)
            return ours

        monkeypatch.setattr(relay_check, "open_socket", open_and_reset)
        ticket = RelayTicket(Identity.generate().public_key, Address(LOCALHOST, server.getsockname()[1]))
        status, out = check(ticket, "--line")
    assert (status, out.partition(": version: ")[0]) == (1, f"FAILED {ticket.address}")


def test_a_port_that_does_not_answer_is_reported(check):
    with unanswered_port() as port:
        failure_of(check, ticket_for(port), "TCP connection", Cause.NO_ANSWER, "--timeout", "0.2")


def test_a_name_that_does_not_resolve_is_reported(check, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failure = failure_of(check, ticket_for(1337, "relay.example"), "name lookup", Cause.NAME)
    assert failure["reason"] == "the name relay.example does not resolve: Name or service not known"
    assert "relay.example" in failure["advice"]


@contextlib.contextmanager
def server_with(serve: Callable[[socket.socket], object]) -> Iterator[RelayTicket]:
    """Run a server that calls `serve` with each connection in a thread; yield its ticket."""
    with socket.create_server((LOCALHOST, 0)) as server:
        threads: list[threading.Thread] = []

        def run(sock: socket.socket) -> None:
            with sock, contextlib.suppress(OSError, PeerError):
                sock.settimeout(PATIENCE)
                serve(sock)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock, _ = server.accept()
                    threads.append(threading.Thread(target=run, args=(sock,)))
                    threads[-1].start()

        accepting = threading.Thread(target=accept)
        accepting.start()
        yield ticket_for(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
        accepting.join()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize(
    ("answer", "step", "cause", "timeout"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "version", Cause.NOT_A_RELAY, LONG),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "version", Cause.NOT_A_RELAY, LONG),
        (b"", "version", Cause.NOT_A_RELAY, SHORT),
        (b"\0\0\0\4\0\0\0\0", "version", Cause.OLDER_PROTOCOL, LONG),
        (encode_frame(b"\0\0\0\1"), "version", Cause.OTHER_PROTOCOL, LONG),
        (encode_frame(bytes(4)), "handshake", Cause.ENDED, SHORT),
        (encode_frame(bytes(4)) + encode_frame(b"\xffgarbage"), "handshake", Cause.NOT_PROVEN, LONG),
        (None, "version", Cause.ENDED, LONG),
    ],
)
def test_another_server_is_recognized_by_its_answer(answer, step, cause, timeout, check):
    def serve(sock: socket.socket) -> None:
        if answer is None:
            sock.recv(1)  # and close
        else:
            sock.sendall(answer)
            wait_for_end(sock)

    with server_with(serve) as ticket:
        failure_of(check, ticket, step, cause, "--timeout", timeout)


@pytest.mark.parametrize(
    ("serve", "cause", "timeout"),
    [
        (lambda relay: wait_for_end(relay.sock), Cause.NOT_ANNOUNCED, SHORT),
        (lambda relay: None, Cause.ENDED, LONG),
    ],
    ids=["nothing is announced", "every connection is closed"],
)
def test_a_relay_that_does_not_connect_nodes_is_reported(serve, cause, timeout, check):
    keys = KeyPair()
    with server_with(lambda sock: serve(play_relay(sock, keys))) as server:
        ticket = RelayTicket(keys.public_key, server.address)
        failure_of(check, ticket, "connect", cause, "--timeout", timeout)


def test_a_tunnel_that_loses_messages_is_reported(relay, check, monkeypatch):
    monkeypatch.setattr(Tunnel, "send", lambda *_: None)
    failure_of(check, relay.ticket, "message there", Cause.NO_MESSAGE, "--timeout", SHORT)


def test_a_tunnel_that_changes_messages_is_reported(relay, check, monkeypatch):
    real = Tunnel.receive
    monkeypatch.setattr(Tunnel, "receive", lambda *given: real(*given) + b"!")
    failure = failure_of(check, relay.ticket, "message there", Cause.ENDED)
    assert failure["reason"] == "the message that arrived differs from the one sent"


# The following tests need a process of their own.


@pytest.fixture
def bad_ticket(tmp_path: Path) -> Path:
    """A ticket with which every check fails at once."""
    path = tmp_path / "a.relay"
    RelayTicket(Identity.generate().public_key, Address(LOCALHOST, free_port())).save(path)
    return path


@pytest.mark.parametrize("colour", [True, False])
def test_a_terminal_shows_progress_and_colour(colour, bad_ticket):
    command = [sys.executable, ROOT / "stmgr.py", "relay-check", bad_ticket]
    status, shown = run_in_terminal(command, environment={} if colour else {"NO_COLOR": "1"})
    assert status == 1
    assert "\r\x1b[K  TCP connection ... (at most 8 s)\r\x1b[K" in shown
    assert ("\x1b[1;31mFAILED\x1b[0m  TCP connection" if colour else "\x1b[K  FAILED  TCP") in shown


@pytest.mark.parametrize("options", [[], ["--json"], ["--trace"]])
def test_a_pipe_gets_no_progress_and_no_colour(options, bad_ticket):
    status, out, err = run_script("stmgr.py", "relay-check", bad_ticket, *options)
    assert (status, err) == (1, "")
    assert "\x1b" not in out
    assert "\r" not in out


def test_other_commands_do_not_import_the_client(tmp_path):
    program = (
        "import sys, stmgr; status = stmgr.main(sys.argv[1:]);"
        " print([name for name in sys.modules if name.startswith(('offset_common.client', 'segno'))]);"
        " sys.exit(status)"
    )
    line = ["-c", program, "gen-ident", "-o", tmp_path / "a"]
    assert run_python(*line, directory=ROOT) == (0, "[]\n", "")
