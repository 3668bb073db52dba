"""stmgr relay-check for monitors and terminals: one line, again and again, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import stmgr
from offset_common.identity import encode_key, load_identity
from tests.commands import ROOT
from tests.support.client import fake_server, ticket_for, wait_for_end
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess, StartRelay, relay, start_relay
from tests.terminals import fork_with_terminal

__all__ = ["relay", "start_relay"]

SCRIPT = str(ROOT / "stmgr.py")


@pytest.fixture
def ticket_file(relay: RelayProcess, tmp_path: Path) -> str:
    path = tmp_path / "a.relay"
    relay.ticket.save(path)
    return str(path)


def test_line_of_a_working_relay(
    ticket_file: str, relay: RelayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stmgr.main(["relay-check", ticket_file, "--quick", "--line"]) == 0
    line = rf"OK {relay.ticket.address}: all steps in \d+\.\d ms, round trip \d+\.\d ms\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def test_line_of_a_failing_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.relay"
    ticket_for(1).save(path)
    assert stmgr.main(["relay-check", str(path), "--line"]) == 1
    line = r"FAILED 127\.0\.0\.1:1: TCP connection: no TCP connection to 127\.0\.0\.1:1: .+\n"
    assert re.fullmatch(line, capsys.readouterr().out)


def watch(ticket: str, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, SCRIPT, "relay-check", ticket, "--watch", "1", *options],
        stdout=subprocess.PIPE,
        text=True,
    )


def next_line(watching: subprocess.Popen[str]) -> str:
    assert watching.stdout is not None
    return watching.stdout.readline()


def interrupt(watching: subprocess.Popen[str]) -> int:
    with watching:
        watching.send_signal(signal.SIGINT)
        return watching.wait(PATIENCE)


def test_watch_prints_a_line_for_each_check(ticket_file: str) -> None:
    watching = watch(ticket_file)
    lines = [next_line(watching) for _ in range(3)]
    assert interrupt(watching) == 0
    for line in lines:
        assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ OK 127\.0\.0\.1:\d+: ", line)
    assert len({line[:20] for line in lines}) == 3, "a check starts every second"


@pytest.fixture
def guarded(start_relay: StartRelay, tmp_path: Path) -> Callable[..., tuple[str, str]]:
    """Start a relay whose access file has rules for one key; return its ticket and that identity."""

    def start(*verbs: str) -> tuple[str, str]:
        identity, access, ticket = (tmp_path / name for name in ("check.ident", "access.txt", "a.relay"))
        assert stmgr.main(["gen-ident", "-o", str(identity)]) == 0
        key = encode_key(load_identity(identity).public_key)
        access.write_text("".join(f"{verb} {key} relay-check\n" for verb in verbs))
        start_relay("--access", str(access)).ticket.save(ticket)
        return str(ticket), str(identity)

    return start


@pytest.mark.parametrize("options", [("--quick", "--line"), ("--trace",), ("--json",)])
def test_access_file_lets_the_check_in_with_an_allowed_key(
    guarded: Callable[..., tuple[str, str]], options: tuple[str, ...]
) -> None:
    ticket, identity = guarded("listen", "connect")
    assert stmgr.main(["relay-check", ticket, *options, "--idfile", identity]) == 0


def test_watch_uses_the_identity(guarded: Callable[..., tuple[str, str]]) -> None:
    ticket, identity = guarded("listen", "connect")
    watching = watch(ticket, "--idfile", identity)
    lines = [next_line(watching) for _ in range(2)]
    assert interrupt(watching) == 0
    assert [" OK " in line for line in lines] == [True, True]


@pytest.mark.parametrize("verb", ["listen", "connect"])
def test_check_of_a_relay_with_an_access_file_mentions_it(
    guarded: Callable[..., tuple[str, str]], verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ticket, _ = guarded(verb)
    assert stmgr.main(["relay-check", ticket, "--timeout", "3"]) == 1
    advice = "access file that does not allow the keys of this check: give an allowed one with --idfile"
    assert advice in capsys.readouterr().out


def test_check_mentions_a_quota_that_is_used_up(
    start_relay: StartRelay, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    relay = start_relay("--quota", "1k")
    ticket = tmp_path / "a.relay"
    relay.ticket.save(ticket)
    stmgr.main(["relay-check", str(ticket), "--quick"])  # uses it up
    relay.wait_for_line("^warning: the monthly quota is used up")
    capsys.readouterr()
    assert stmgr.main(["relay-check", str(ticket), "--timeout", "3"]) == 1
    assert "the relay's monthly quota is used up" in capsys.readouterr().out


def test_identity_of_the_relay_itself_is_refused(
    ticket_file: str, relay: RelayProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stmgr.main(["relay-check", ticket_file, "--idfile", str(relay.identity)]) == 2
    assert "--idfile is the identity of the relay itself; create one" in capsys.readouterr().err


def test_status_of_watch_is_that_of_the_last_check(start_relay: StartRelay, tmp_path: Path) -> None:
    own = start_relay()
    path = tmp_path / "a.relay"
    own.ticket.save(path)
    watching = watch(str(path))
    assert " OK " in next_line(watching)
    own.kill()
    while " OK " in next_line(watching):
        pass
    assert interrupt(watching) == 1


def test_watch_prints_one_json_object_a_line(ticket_file: str) -> None:
    watching = watch(ticket_file, "--json")
    reports = [json.loads(next_line(watching)) for _ in range(2)]
    assert interrupt(watching) == 0
    assert [(report["ok"], report["bulk"]) for report in reports] == [(True, None)] * 2
    assert reports[0]["time"] < reports[1]["time"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--trace --json", "--trace and --json cannot be used together; choose one"),
        ("--json --line", "--json and --line cannot be used together; choose one"),
        ("--watch 5 --trace", "--trace and --watch cannot be used together; choose one"),
        ("--idfile b --illustrate c", "--idfile and --illustrate cannot be used together; choose one"),
        ("--watch 0", "--watch must be a number of seconds from 1 to 86400, not '0'"),
        ("--watch soon", "--watch must be a number of seconds from 1 to 86400, not 'soon'"),
        ("--timeout 8s", "--timeout must be a number of seconds from 0.1 to 3600, not '8s'; for 8s write 8"),
    ],
)
def test_options_that_do_not_fit_are_explained(
    options: str, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stmgr.main(["relay-check", "a", *options.split()]) == 2
    assert capsys.readouterr() == ("", f"stmgr: {reason}\n")


def run_and_press_ctrl_c(arguments: list[str], wait_for: str, term: str) -> tuple[int, str]:
    """Run a command as the foreground job of a terminal; press Ctrl-C once it shows `wait_for`."""
    pid, terminal = fork_with_terminal()
    if pid == 0:
        os.environ["TERM"] = term
        os.execv(sys.executable, [sys.executable, *arguments])
    shown, pressed = "", False
    try:
        while piece := os.read(terminal, 65536):
            shown += piece.decode()
            if wait_for in shown and not pressed:
                pressed = True
                os.write(terminal, b"\x03")
    except OSError:  # raised when no process has the terminal open any more
        pass
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


@pytest.mark.parametrize("options", [[], ["--trace"], ["--json"]], ids=["steps", "trace", "json"])
@pytest.mark.parametrize("term", ["xterm", "dumb"])
def test_ctrl_c_leaves_a_clean_line(options: list[str], term: str, tmp_path: Path) -> None:
    if options == ["--json"] and term == "dumb":
        pytest.skip("shows nothing to wait for")
    path = tmp_path / "a.relay"
    with fake_server(wait_for_end) as ticket:
        ticket.save(path)
        text = "== version" if options == ["--trace"] else "version" if term == "xterm" else "TCP connection"
        status, shown = run_and_press_ctrl_c([SCRIPT, "relay-check", str(path), *options], text, term)
    assert status == 130
    assert "Traceback" not in shown
    assert shown.endswith("\r\x1b[K" if term == "xterm" else "\n")
