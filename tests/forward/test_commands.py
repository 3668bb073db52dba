"""stforward: its command line, its messages, and who is let in."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

import stforward
from offset_common.forward.code import Code, parse_code
from offset_common.identity import Identity, encode_key, save_identity
from offset_common.tickets import RelayTicket
from tests.forward.programs import Setting, echo, exchange, reach, server
from tests.support.process import PATIENCE, LoggedProcess, wait_until
from tests.support.relay_process import LOCALHOST


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run stforward in this process, for command lines that end at once."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))

    def run(*arguments: str) -> Outcome:
        status = stforward.main(list(arguments))
        return Outcome(status, *capsys.readouterr())

    return run


KEY = encode_key(bytes(32))


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (("share", "22"), 2, "no relay is known yet; give the ticket of one, as in: stforward share 22"),
        (("share", "22", "--relay", "no.relay"), 1, "no.relay: there is no file with this name"),
        (("share",), 2, "<what> is missing"),
        (("share", "22", "--allow", "abc"), 2, "--allow: the key has 3 characters; a 32-byte key has 43"),
        (("share", "22", "--max", "0"), 2, "--max must be a whole number from 1 to 100000, not '0'"),
        (("share", "22", "--keep", "1h"), 2, "--keep must be a number of seconds from 0 to 86400, not '1h'"),
        (("share", "22", "--stdio"), 2, "unknown option --stdio"),
        (("share", "ssh"), 2, "'ssh' names no port"),
        (("to", "home"), 2, "no port is given; give one to listen on"),
        (("to", "home", "2222"), 2, "no machine is known as 'home'; give the code that"),
        (("to", "home", "ssh", "2222", "--stdio"), 2, "--stdio connects one service"),
        (("to", "of1" + "A" * 80, "2222"), 2, "the code is incomplete or mistyped; copy it again"),
        (("to", "home", "--as", "a b", "2222"), 2, "--as must be up to 32 letters"),
        (("shar", "22"), 2, "unknown command 'shar'; did you mean share?"),
        ((), 2, "no command is given"),
    ],
)  # fmt: skip
def test_usage_errors_are_reported_in_one_line(
    run, arguments: tuple[str, ...], status: int, line: str
) -> None:
    done = run(*arguments)
    assert done.status == status
    assert done.stderr.splitlines()[0].startswith(f"stforward: {line}"), done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [("--help",), ("share", "--help"), ("to", "-h")])
def test_help_lists_every_command(run, arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.status == 0
    for command in ("share", "to", "list", "key"):
        assert f"\n  stforward.py {command} " in done.stdout


def test_key_makes_an_identity_at_the_first_use(run, tmp_path: Path) -> None:
    first = run("key")
    assert first.status == 0 and re.fullmatch(r"[A-Za-z0-9_-]{43}\n", first.stdout)
    assert run("key").stdout == first.stdout
    assert (tmp_path / "offset" / "stforward.ident").exists()


def test_share_prints_the_line_to_run_elsewhere(setting: Setting) -> None:
    output = setting.path / "output"
    command = " ".join(setting.share_command("ssh=22", "web=8080"))
    setting.programs.append(LoggedProcess(["sh", "-c", f"exec {command} >{output}"]))
    setting.programs[-1].wait_for_line("^waiting for connections$")
    found = re.fullmatch(r"stforward to (\S+) ssh=2222 web=8080\n", output.read_text())
    assert found and parse_code(found[1]) == setting.code


def test_share_works_where_nothing_can_be_remembered(setting: Setting) -> None:
    identity = setting.path / "share.ident"
    save_identity(Identity.generate(), identity)
    setting.home.config = Path("/dev/null")
    arguments = ["--relay", str(setting.ticket_file), "--allow-any", "--idfile", str(identity)]
    program = setting.start(setting.home, "share", "22", *arguments)
    program.wait_for_line("^the relay is not remembered: /dev/null/offset: .*XDG_CONFIG_HOME")
    program.wait_for_line("^waiting for connections$")


def test_remembered_machine_is_listed(setting: Setting) -> None:
    setting.share("9", "--name", "home")
    program, _ = setting.reach()
    program.wait_for_line("^the code is remembered; next time, use the name home instead$")
    listed = setting.laptop.run("list")
    assert listed.stdout.decode().startswith(f"reach home, {setting.home.key} through {LOCALHOST}:")


def test_code_of_this_machine_itself_is_refused(setting: Setting) -> None:
    done = setting.home.run("to", str(setting.code), "0")
    assert done.returncode == 2
    assert done.stderr == b"stforward: this is the code of this machine itself; use it on another machine\n"


@pytest.mark.parametrize("command", ["share", "to"])
def test_identity_of_the_relay_is_refused(command: str, setting: Setting) -> None:
    relay = RelayTicket(setting.laptop.identity.public_key, setting.ticket.address)
    relay.save(setting.path / "own.relay")
    lines = {
        "share": ("9", "--relay", str(setting.path / "own.relay")),
        "to": (str(Code(relay, setting.home.identity.public_key)), "0"),
    }
    done = setting.laptop.run(command, *lines[command])
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"stforward: this machine has the identity of the relay itself; ")


def test_share_reports_a_mistake_in_peers_at_once(setting: Setting) -> None:
    (setting.home.directory.path / "peers").write_text("permit x\n")
    done = setting.home.run("share", "22", "--relay", str(setting.ticket_file))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.endswith(b"/peers: line 1: it begins with 'permit'; write allow or deny\n")


def test_service_that_is_not_shared_is_reported(setting: Setting) -> None:
    setting.share("ssh=9", "web=10", "--name", "home")
    program = setting.to("nosuch=0", "ssh=0")
    program.wait_for_line("^the other machine shares no service 'nosuch'; name one of: ssh, web$")
    assert program.count_lines("shares no service 'ssh'") == 0


def test_second_share_with_one_identity_is_refused(setting: Setting) -> None:
    setting.share("9")
    second = setting.start_share("10")
    assert second.wait() == 1
    assert second.lines[0].startswith("stforward: another stforward already shares with ")


def test_services_have_names(setting: Setting) -> None:
    def answer_with(name: bytes):
        return lambda sock: sock.sendall(name)

    with server(answer_with(b"one")) as one, server(answer_with(b"two")) as two:
        setting.share(f"one={one}", f"two={two}")
        program = setting.to("one=0", "two=0", "0")
        program.wait_for_line("^listening on ", count=3)
        ports = [int(line.split()[-1]) for line in program.lines if line.startswith("listening on ")]
        for port, expected in zip(ports, (b"one", b"two")):
            with reach(port) as sock:
                assert sock.recv(3) == expected
        with reach(ports[2]) as sock, pytest.raises(ConnectionResetError):
            sock.recv(1)
        program.wait_for_line("connection 3: cut off: there is more than one service; name one of: one, two")
        assert setting.laptop.run("list", str(setting.code)).stdout == b"one\ntwo\n"


def test_list_reports_a_full_disk(setting: Setting) -> None:
    setting.share("ssh=9")
    command = setting.laptop.command("list", str(setting.code))
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >/dev/full', "sh", *command], stderr=subprocess.PIPE, timeout=2 * PATIENCE
    )
    line = b"stforward: the disk is full; free some space and try again\n"
    assert (done.returncode, done.stderr) == (1, line)


def test_json_events_are_objects(setting: Setting) -> None:
    output = setting.path / "output"
    with server(echo) as target:
        setting.share(str(target))
        command = " ".join(setting.laptop.command("to", str(setting.code), "0", "--json"))
        program = LoggedProcess(["sh", "-c", f"exec {command} >{output}"])
        setting.programs.append(program)

        def events() -> list[dict[str, object]]:
            return [json.loads(line) for line in output.read_text().splitlines()] if output.exists() else []

        wait_until(lambda: any(each["event"] == "remembered" for each in events()), "the connection")
        where = next(str(each["where"]) for each in events() if each["event"] == "listening")
        with reach(int(where.split()[-1])) as sock:
            assert exchange(sock, b"hello") == b"hello"
        wait_until(lambda: any(each["event"] == "connection_ended" for each in events()), "the end")
        (ended,) = [each for each in events() if each["event"] == "connection_ended"]
        assert (ended["sent"], ended["received"], ended["reason"]) == (5, 5, "")
        assert program.stop() == 0
        assert program.lines == []


def test_share_runs_without_standard_output(setting: Setting) -> None:
    words = setting.share_command("22")
    program = LoggedProcess(["sh", "-c", 'exec "$@" >&-', "sh", *words])
    setting.programs.append(program)
    program.wait_for_line("^waiting for connections$")
