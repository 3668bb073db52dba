"""relay-check: goes the whole way through a relay, and says which step fails and what to look at."""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

import stmgr
from offset_common.address import Address
from offset_common.client import Tunnel, connect
from offset_common.errors import PeerError
from offset_common.identity import Identity, encode_key
from offset_common.tickets import RelayTicket
from offset_common.tools import relay_check
from offset_common.tools.failures import Cause
from offset_common.wire.frames import encode_frame
from tests.support.channel import KeyPair
from tests.support.client import play_relay, ticket_for, wait_for_end
from tests.support.peer import Peer
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import LOCALHOST, relay
from tests.terminals import run_in_terminal

__all__ = ["relay"]

ROOT = Path(__file__).parent.parent
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
MEASURED = ["round trips", "bulk"]


@pytest.fixture(autouse=True)
def short_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay_check, "BULK_SECONDS", 0.05)
    monkeypatch.setattr(relay_check, "ROUND_TRIPS", 20)


Check = Callable[..., tuple[int, str]]


@pytest.fixture
def check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    """Run relay-check with a ticket; give its status and its output."""

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


def test_a_relay_that_works_is_gone_through_step_by_step_and_measured(relay, check):
    status, out = check(relay.ticket)
    assert status == 0
    assert out.startswith(f"relay {encode_key(relay.ticket.public_key)} at {relay.ticket.address}\n")
    assert steps_of(out) == STEPS
    assert re.search(r"^round trip, .*: p50 \d+\.\d ms, p99 \d+\.\d ms \(20 messages\)$", out, re.MULTILINE)
    assert re.search(r"^throughput, one way: [1-9]\d*\.\d MB/s for 0\.\d s", out, re.MULTILINE)
    assert out.endswith("\nthe relay works\n")
    assert "\x1b" not in out


def test_the_check_leaves_no_connection_behind(relay, check):
    assert check(relay.ticket)[0] == 0
    wait_until(lambda: not relay.state().figures["connections"])
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name in ("offset tunnel", "offset listener")]
    )


def test_the_json_report_has_every_step_and_measurement(relay, check):
    status, out = check(relay.ticket, "--json")
    report = json.loads(out)
    assert (status, report["ok"], report["failure"]) == (0, True, None)
    assert report["publicKey"] == encode_key(relay.ticket.public_key)
    assert report["address"] == str(relay.ticket.address)
    assert [step["step"] for step in report["steps"]] == STEPS + MEASURED
    assert all(0 <= step["seconds"] < PATIENCE for step in report["steps"])
    assert report["roundTrip"]["count"] == 20
    assert 0 < report["roundTrip"]["p50"] <= report["roundTrip"]["p99"] < PATIENCE
    bulk = report["bulk"]
    assert bulk["bytes"] >= relay_check.BULK_SIZE
    assert bulk["bytesPerSecond"] == pytest.approx(bulk["bytes"] / bulk["seconds"], rel=1e-3)


def test_a_connect_that_comes_before_the_listen_is_tried_again(relay, check, monkeypatch):
    connected = []
    real = connect

    def connect_to_another_first(ticket, identity, public_key, **options):
        connected.append(public_key)
        # What a relay answers to one that comes too early: the same as to one for a node that is not there.
        key = Identity.generate().public_key if len(connected) == 1 else public_key
        return real(ticket, identity, key, **options)

    monkeypatch.setattr(relay_check, "connect", connect_to_another_first)
    status, out = check(relay.ticket)
    assert status == 0
    assert len(connected) == 2
    assert "announced to the listener, at try 2" in out


def failed(check: Check, ticket: RelayTicket, *options: str) -> dict[str, str]:
    """Run it both ways; return the failure of the JSON report after a look at the lines."""
    lines_status, out = check(ticket, *options)
    json_status, report = check(ticket, "--json", *options)
    assert (lines_status, json_status) == (1, 1)
    failure: dict[str, str] = json.loads(report)["failure"]
    assert f"  FAILED  {failure['step']}\n" in out
    assert steps_of(out) == STEPS[: STEPS.index(failure["step"])]
    assert f"\nwhat to look at: {failure['advice']}\n" in out
    assert "{" not in out, "a gap that was not filled"
    assert json.loads(report)["ok"] is False
    return failure


def test_a_relay_with_another_key_is_told_with_both_keys(relay, check):
    ticket = RelayTicket(Identity.generate().public_key, relay.ticket.address)
    failure = failed(check, ticket)
    assert (failure["step"], failure["cause"]) == ("handshake", Cause.WRONG_KEY.value)
    assert failure["reason"] == (
        f"the relay at {ticket.address} has another identity: it says that its key is"
        f" {encode_key(relay.ticket.public_key)}, and the ticket's is {encode_key(ticket.public_key)}"
    )


def test_a_port_where_nothing_listens_is_told_as_such(check):
    with socket.create_server((LOCALHOST, 0)) as server:
        port = server.getsockname()[1]
    failure = failed(check, ticket_for(port))
    assert (failure["step"], failure["cause"]) == ("TCP connection", Cause.NOTHING_LISTENS.value)
    assert str(port) in failure["advice"]


def test_a_port_that_does_not_answer_is_told_as_such(check):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((LOCALHOST, 0), backlog=0))
        address = server.getsockname()
        with contextlib.suppress(socket.timeout):
            for _ in range(50):  # until the queue is full: then the system leaves connections unanswered
                stack.enter_context(socket.create_connection(address, timeout=0.2))
            pytest.skip("this system answers whatever its queue holds")
        failure = failed(check, ticket_for(address[1]), "--timeout", "0.2")
    assert (failure["step"], failure["cause"]) == ("TCP connection", Cause.NO_ANSWER.value)


def test_a_name_that_does_not_resolve_is_told_as_such(check, monkeypatch):
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    failure = failed(check, ticket_for(1337, "relay.example"))
    assert (failure["step"], failure["cause"]) == ("name lookup", Cause.NAME.value)
    assert failure["reason"] == "the name relay.example does not resolve: Name or service not known"
    assert "relay.example" in failure["advice"]


@contextlib.contextmanager
def server_of_all(serve: Callable[[socket.socket], object]) -> Iterator[RelayTicket]:
    """Let `serve` have every connection, each in a thread."""
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
    ("said", "step", "cause"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "version", Cause.NOT_A_RELAY),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "version", Cause.NOT_A_RELAY),
        (b"", "version", Cause.NOT_A_RELAY),
        (b"\0\0\0\4\0\0\0\0", "version", Cause.OLDER_PROTOCOL),
        (encode_frame(b"\0\0\0\1"), "version", Cause.OTHER_PROTOCOL),
        (encode_frame(bytes(4)), "handshake", Cause.ENDED),
        (encode_frame(bytes(4)) + encode_frame(b"\xffgarbage"), "handshake", Cause.NOT_PROVEN),
    ],
)
def test_what_is_no_relay_of_today_is_told_by_what_it_said(said, step, cause, check):
    def serve(sock: socket.socket) -> None:
        sock.sendall(said)
        wait_for_end(sock)

    with server_of_all(serve) as ticket:
        failure = failed(check, ticket, "--timeout", "0.3")
    assert (failure["step"], failure["cause"]) == (step, cause.value)


def test_a_server_that_hangs_up_at_once_is_told_as_such(check):
    def serve(sock: socket.socket) -> None:
        sock.recv(1)

    with server_of_all(serve) as ticket:
        failure = failed(check, ticket)
    assert (failure["step"], failure["cause"]) == ("version", Cause.ENDED.value)


@contextlib.contextmanager
def relay_that(serve: Callable[[Peer], object]) -> Iterator[RelayTicket]:
    """Let `serve` have every connection after its InitConnection."""
    keys = KeyPair()
    with server_of_all(lambda sock: serve(play_relay(sock, keys))) as ticket:
        yield RelayTicket(keys.public_key, ticket.address)


def test_a_relay_whose_listener_and_connector_do_not_meet_is_told_as_such(check):
    with relay_that(lambda relay: wait_for_end(relay.sock)) as ticket:
        failure = failed(check, ticket, "--timeout", "0.3")
    assert (failure["step"], failure["cause"]) == ("connect", Cause.NOT_ANNOUNCED.value)


def test_a_relay_that_ends_every_connection_is_told_as_such(check):
    with relay_that(lambda relay: None) as ticket:
        failure = failed(check, ticket, "--timeout", "1")
    assert (failure["step"], failure["cause"]) == ("connect", Cause.ENDED.value)


def test_a_tunnel_through_which_nothing_passes_is_told_as_such(relay, check, monkeypatch):
    monkeypatch.setattr(Tunnel, "send", lambda *_: None)
    failure = failed(check, relay.ticket, "--timeout", "0.2")
    assert (failure["step"], failure["cause"]) == ("message there", Cause.NO_MESSAGE.value)


def test_a_tunnel_that_changes_a_message_is_told_as_such(relay, check, monkeypatch):
    real = Tunnel.receive
    monkeypatch.setattr(Tunnel, "receive", lambda *given: real(*given) + b"!")
    failure = failed(check, relay.ticket)
    assert failure["step"] == "message there"
    assert failure["reason"] == "the tunnel gave another message than was sent into it"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("relay-check", "<ticket> is missing"),
        ("relay-check a b", "nothing is expected to be 'b'"),
        ("relay-chekc a", "there is no command 'relay-chekc'; did you mean relay-check?"),
        ("relay-check a --jsno", "unknown option --jsno; did you mean --json?"),
        ("relay-check a --json --trace", "--trace is for a reader and --json for a program: choose one"),
        ("relay-check a --timeout x", "--timeout is a number of seconds from 0.1 to 3600, not 'x'"),
        ("relay-check a --timeout nan", "--timeout is a number of seconds from 0.1 to 3600, not 'nan'"),
        ("relay-check a --timeout 0", "--timeout is a number of seconds from 0.1 to 3600, not '0'"),
    ],
)
def test_a_wrong_command_line_is_told_why_with_status_2(line, reason, capsys):
    assert stmgr.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", f"stmgr: {reason}")


def test_what_is_no_ticket_is_one_line_with_status_1(tmp_path, capsys):
    path = tmp_path / "a.relay"
    path.write_text("{}")
    assert stmgr.main(["relay-check", str(path), "--json"]) == 1
    assert capsys.readouterr() == ("", f'stmgr: {path}: has no "publicKey"\n')


# The rest needs a process of its own.


def closed_port() -> int:
    with socket.create_server((LOCALHOST, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def command(tmp_path: Path, *options: str) -> list[object]:
    """A command line that fails soon."""
    ticket = tmp_path / "a.relay"
    RelayTicket(Identity.generate().public_key, Address(LOCALHOST, closed_port())).save(ticket)
    return [sys.executable, ROOT / "stmgr.py", "relay-check", ticket, *options]


def test_a_terminal_is_told_what_is_under_way_and_the_line_is_wiped_away(tmp_path):
    status, shown = run_in_terminal(command(tmp_path))
    assert status == 1
    assert "\r\x1b[K  TCP connection ... (at most 8 s)\r\x1b[K" in shown
    assert "\x1b[1;31mFAILED\x1b[0m  TCP connection" in shown


def test_no_color_leaves_the_colours_out(tmp_path):
    _, shown = run_in_terminal(command(tmp_path), environment={"NO_COLOR": "1"})
    assert "FAILED  TCP connection" in shown
    assert "\x1b[1;31m" not in shown


@pytest.mark.parametrize("options", [[], ["--json"], ["--trace"]])
def test_a_pipe_gets_no_progress_and_no_colour(options, tmp_path):
    done = subprocess.run(
        [str(word) for word in command(tmp_path, *options)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout


def test_the_other_commands_do_not_import_a_nodes_side(tmp_path):
    program = (
        "import sys, stmgr; status = stmgr.main(sys.argv[1:]);"
        " print([name for name in sys.modules if name.startswith(('offset_common.client', 'segno'))]);"
        " sys.exit(status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, "gen-ident", "-o", str(tmp_path / "a")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "[]\n"


README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTED = [
    *re.findall(r"^python (stmgr\.py (?:relay-check|show) .*)$", README, re.MULTILINE),
    *re.findall(r"`python (examples/read_the_protocol\.py.*?)`", README),
]


def test_the_readme_has_command_lines_for_all_of_this():
    assert len(DOCUMENTED) == 4


@pytest.mark.parametrize("line", DOCUMENTED)
def test_a_command_line_of_the_readme_works(line, relay, tmp_path):
    if "--qr" in line:
        pytest.importorskip("segno", reason="needs the package segno")
    (tmp_path / "relay").mkdir()
    relay.ticket.save(tmp_path / "relay" / "relay.relay")
    script, *arguments = line.split()
    done = subprocess.run(
        [sys.executable, str(ROOT / script), *arguments],
        cwd=tmp_path,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "relay.png").exists() is ("relay.png" in line)


@pytest.mark.parametrize("name", ["relay-check", "show"])
def test_its_page_stands_in_the_help_by_its_first_sentence(name, capsys):
    stmgr.main(["help", name])
    page = capsys.readouterr().out
    stmgr.main(["help"])
    assert f"  {name:13} {page.splitlines()[0]}\n" in capsys.readouterr().out
    assert max(len(line) for line in page.splitlines()) <= 110
    assert page.isascii()
