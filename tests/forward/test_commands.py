"""stforward: its command line, its messages, and who is let in."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

import stforward
from offset_common.forward.code import Code, parse_code
from offset_common.forward.peers import Peer, Peers, Rule
from offset_common.identity import Identity, encode_key, save_identity
from offset_common.tickets import RelayTicket
from tests.forward.programs import Machine, Setting, echo, exchange, port_of, reach, read_all, server
from tests.support.process import PATIENCE, LoggedProcess, wait_until
from tests.support.relay_process import LOCALHOST
from tests.terminals import Terminal


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
        (("share", "22", "--name", "a b"), 2, "--name must be up to 32 letters, digits"),
        (("share", "22", "--stdio"), 2, "unknown option --stdio"),
        (("share", "ssh"), 2, "'ssh' names no port"),
        (("to", "home"), 2, "no port is given; give one to listen on"),
        (("to", "home", "2222"), 2, "no machine is known as 'home'; give the code that"),
        (("to", "home", "ssh", "2222", "--stdio"), 2, "--stdio connects one service"),
        (("to", "of1abc", "2222"), 2, "no machine is known as 'of1abc'"),
        (("to", "of1" + "A" * 80, "2222"), 2, "the code is incomplete or mistyped; copy it again"),
        (("to", "home", "--as", "a b", "2222"), 2, "--as must be up to 32 letters"),
        (("list", "home"), 2, "no machine is known as 'home'"),
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
    command = " ".join(
        setting.home.command("share", "ssh=22", "web=8080", "--relay", str(setting.ticket_file))
    )
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


def test_relay_and_code_are_remembered(setting: Setting) -> None:
    with server(echo) as target:
        setting.share(f"echo={target}", "--name", "home").stop()
        setting.start(setting.home, "share", f"echo={target}", "--name", "home").wait_for_line("^waiting for")
        setting.reach()[0].wait_for_line("^the code is remembered; next time, use the name home instead$")
        program = setting.start(setting.laptop, "to", "home", "echo", "0")
        program.wait_for_line("^connected to home$")
        with reach(port_of(program)) as sock:
            assert exchange(sock, b"hello") == b"hello"
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


def test_stdio_passes_bytes_and_both_ends(setting: Setting) -> None:
    with server(lambda sock: sock.sendall(read_all(sock)[::-1])) as target:
        setting.share(f"reverse={target}")
        content = os.urandom(300_000)
        done = setting.laptop.run("to", str(setting.code), "reverse", "--stdio", input=content)
    assert (done.returncode, done.stdout, done.stderr) == (0, content[::-1], b"")


def test_stdio_waits_for_non_blocking_input(setting: Setting) -> None:
    with server(lambda sock: sock.sendall(read_all(sock))) as target:
        setting.share(f"back={target}")
        inner, outer = os.pipe()
        os.set_blocking(inner, False)  # as a program that shares it may do
        command = setting.laptop.command("to", str(setting.code), "back", "--stdio")
        with subprocess.Popen(command, stdin=inner, stdout=subprocess.PIPE) as program:
            os.close(inner)
            setting.programs[0].wait_for_line("^connection 1: back for laptop$")
            os.write(outer, b"late")
            os.close(outer)
            assert program.stdout is not None and program.stdout.read() == b"late"
            assert program.wait(PATIENCE) == 0


@pytest.mark.parametrize(
    ("redirection", "line"),
    [
        ("0>/dev/null", b"stforward: cannot read standard input: bad file descriptor\n"),
        (
            "</dev/null >/dev/full",
            b"stforward: cannot write standard output: the disk is full; free some space and try again\n",
        ),
    ],
)
def test_stdio_reports_a_failed_stream(setting: Setting, redirection: str, line: bytes) -> None:
    with server(lambda sock: sock.sendall(b"answer")) as target:
        setting.share(f"back={target}")
        command = setting.laptop.command("to", str(setting.code), "back", "--stdio")
        done = subprocess.run(
            ["sh", "-c", f'exec "$@" {redirection}', "sh", *command],
            stderr=subprocess.PIPE,
            timeout=2 * PATIENCE,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, line)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stdio_ends_quietly_after_a_signal(setting: Setting, number: signal.Signals) -> None:
    with server(echo) as target:
        setting.share(f"echo={target}")
        command = setting.laptop.command("to", str(setting.code), "echo", "--stdio")
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as program:
            assert program.stdin is not None and program.stdout is not None and program.stderr is not None
            program.stdin.write(b"ping")
            program.stdin.flush()
            assert program.stdout.read(4) == b"ping"
            program.send_signal(number)
            assert (program.wait(PATIENCE), program.stderr.read()) == (130, b"")


def test_stdio_fails_with_one_line(setting: Setting) -> None:
    setting.share("ssh=9")
    done = setting.laptop.run("to", str(setting.code), "web", "--stdio")
    assert done.returncode == 1
    assert done.stderr == b"stforward: no service is called 'web'; name one of: ssh\n"
    stranger = Machine(setting.path / "stranger")
    done = stranger.run("to", str(setting.code), "--stdio", "--wait", "1")
    assert done.returncode == 1
    assert (
        f"the other machine is not there, or does not let this key in: {stranger.key}" in done.stderr.decode()
    )


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


# Allowed and denied keys.


def test_unknown_key_is_rejected_with_the_line_to_add(setting: Setting) -> None:
    sharing = setting.start_share("9")
    sharing.wait_for_line("^waiting for connections$")
    program = setting.to("0")
    line = sharing.wait_for_line(
        f"^rejected {setting.laptop.key}: this key is unknown; to let it in, add the line "
    )
    program.wait_for_line(f"^not connected: .* does not let this key in: {setting.laptop.key}; trying again$")
    found = re.search("add the line '(.*)' to (.*)$", line)
    assert found
    Path(found[2]).write_text(found[1] + "\n")
    program.wait_for_line("^connected to ")


@pytest.mark.parametrize("option", ["--allow", "--allow-any"])
def test_option_lets_a_key_in(setting: Setting, option: str) -> None:
    options = (option, setting.laptop.key) if option == "--allow" else (option,)
    setting.start_share("9", *options)
    setting.to("0").wait_for_line("^connected to ")
    assert not (setting.home.directory.path / "peers").exists()


def test_allow_lets_in_no_other_key(setting: Setting) -> None:
    sharing = setting.start_share("9", "--allow", encode_key(Identity.generate().public_key))
    setting.to("0")
    sharing.wait_for_line(f"^rejected {setting.laptop.key}: this key is unknown")


def test_denied_key_is_rejected(setting: Setting) -> None:
    Peers(setting.home.directory).add(Rule.DENY, setting.laptop.identity.public_key, "")
    sharing = setting.start_share("9")
    setting.to("0")
    sharing.wait_for_line(f"^rejected {setting.laptop.key}: .*peers denies it$")


def test_damaged_list_of_peers_lets_nobody_in(setting: Setting) -> None:
    sharing = setting.share("9")
    (setting.home.directory.path / "peers").write_text(f"allow {setting.laptop.key}\nallwo x\n")
    setting.to("0")
    sharing.wait_for_line(
        f"^rejected {setting.laptop.key}: .*peers: line 2: it begins with 'allwo'; write allow or"
    )


@pytest.mark.parametrize("answer", ["y", "n", ""])
def test_user_is_asked_once(setting: Setting, answer: str) -> None:
    terminal = Terminal(setting.home.command("share", "9", "--relay", str(setting.ticket_file)))
    try:
        terminal.wait_for("waiting for connections")
        program = setting.to("0", "--name", "my-laptop")
        terminal.wait_for(f"my-laptop, key {setting.laptop.key}: let in? y/N")
        program.wait_for_line(f"^waiting until the other machine lets this key in: {setting.laptop.key}$")
        terminal.type(answer + "\n")
        if answer == "y":
            program.wait_for_line("^connected to ")
        else:
            assert program.wait() == 1
            program.wait_for_line("does not let this machine in: the user there said no$")
        rule = Rule.ALLOW if answer == "y" else Rule.DENY
        terminal.wait_for(f"remembered as '{rule.value}' in ")
        expected = [Peer(rule, setting.laptop.identity.public_key, "my-laptop")]
        assert Peers(setting.home.directory).load() == expected
    finally:
        terminal.close()


# Makes the terminal of this process the one at which a shell controls its jobs.
SHELL = 'import os, sys; os.setsid(); os.open(os.ttyname(0), os.O_RDWR); os.execvp("bash", sys.argv[1:])'


@contextmanager
def background_share(setting: Setting, then: str) -> Iterator[Terminal]:
    """Share as a job in the background of a shell, which then runs a script; yield its terminal."""
    words = setting.home.command("share", "9", "--relay", str(setting.ticket_file))
    script = f'"$@" & echo "job=$!;"; {then}'
    terminal = Terminal([sys.executable, "-c", SHELL, "bash", "-mc", script, "bash", *words])
    try:
        terminal.wait_for("waiting for connections")
        yield terminal
    finally:
        for job in re.findall(r"job=(\d+);", terminal.text):
            with suppress(ProcessLookupError):
                os.kill(int(job), signal.SIGKILL)
        terminal.close()


def test_share_in_the_background_asks_nobody(setting: Setting) -> None:
    with background_share(setting, "read line") as terminal:
        program = setting.to("0")
        terminal.wait_for(f"rejected {setting.laptop.key}: this key is unknown; to let it in, ")
        Peers(setting.home.directory).add(Rule.ALLOW, setting.laptop.identity.public_key, "laptop")
        program.wait_for_line("^connected to ")


def test_question_waits_while_share_is_in_the_background(setting: Setting) -> None:
    with background_share(setting, "fg; read line; bg; read line; fg") as terminal:
        program = setting.to("0", "--name", "my-laptop")
        terminal.wait_for("let in? y/N")
        terminal.type("\x1a")  # Ctrl-Z stops the job
        terminal.wait_for("Stopped")
        terminal.type("this goes to the shell\nand this\ny\n")
        program.wait_for_line("^connected to ")


def test_share_runs_without_standard_output(setting: Setting) -> None:
    words = setting.home.command("share", "22", "--relay", str(setting.ticket_file))
    program = LoggedProcess(["sh", "-c", 'exec "$@" >&-', "sh", *words])
    setting.programs.append(program)
    program.wait_for_line("^waiting for connections$")
