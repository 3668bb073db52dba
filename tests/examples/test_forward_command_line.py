"""examples/forward.py: its command line and its messages."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Callable, NamedTuple

import pytest

from examples.forward import main
from offset_common.identity import Identity, encode_key, save_identity
from tests.examples.programs import Setting
from tests.support.relay_process import LOCALHOST


class Outcome(NamedTuple):
    status: int
    stdout: str
    stderr: str


RunForward = Callable[..., Outcome]


@pytest.fixture
def run_forward(capsys: pytest.CaptureFixture[str]) -> RunForward:
    """Run forward.py in this process, for command lines that end at once."""

    def run_forward(*arguments: str) -> Outcome:
        status = main(arguments)
        return Outcome(status, *capsys.readouterr())

    return run_forward


def test_key_prints_the_public_key(run_forward: RunForward, tmp_path: Path) -> None:
    identity = Identity.generate()
    save_identity(identity, tmp_path / "my.ident")
    done = run_forward("key", "--idfile", str(tmp_path / "my.ident"))
    assert (done.status, done.stdout) == (0, encode_key(identity.public_key) + "\n")


KEY = encode_key(bytes(32))
FILES = ("--ticket", "r.relay", "--idfile", "me.ident")
SERVE = ("serve", *FILES, "--to", "127.0.0.1:22", "--allow", KEY)
DIAL = ("dial", *FILES, "--peer", KEY, "--port", "0")


@pytest.mark.parametrize(
    ("arguments", "status", "line"),
    [
        (SERVE, 1, "r.relay: there is no file of this name"),
        (DIAL, 1, "r.relay: there is no file of this name"),
        (("key", "--idfile", "no.ident"), 1, "no.ident: there is no file of this name"),
        (SERVE[:-2], 2, "--allow is missing"),
        (DIAL[:-2], 2, "--port is missing"),
        ((*SERVE, "--allow", "abc"), 2, "the key of --allow has 3 characters; a 32-byte key has 43"),
        ((*SERVE[:6], "home", *SERVE[7:]), 2, "the address 'home' has no port; "),
        ((*DIAL[:-1], "70000"), 2, "--port '70000' is invalid; use a whole number from 0 to 65535"),
        ((*DIAL, "--max", "0"), 2, "--max '0' is invalid; use a whole number from 1 to 1000"),
        ((*DIAL, "--wait", "x"), 2, "--wait 'x' is invalid; use a whole number from 1 to 3600"),
        ((*DIAL, "--peeer", "x"), 2, "unknown option --peeer; did you mean --peer?"),
    ],
)
def test_usage_errors_are_one_line(
    run_forward: RunForward, arguments: tuple[str, ...], status: int, line: str
) -> None:
    done = run_forward(*arguments)
    assert done.status == status
    assert done.stderr.splitlines()[0].startswith(f"forward: {line}"), done.stderr
    assert done.stdout == ""


def test_missing_and_unknown_commands_differ(run_forward: RunForward) -> None:
    assert run_forward().stderr.startswith("forward: no command is given\nUsage:\n")
    wrong = run_forward("srve", *SERVE[1:])
    assert wrong.status == 2
    assert wrong.stderr.startswith("forward: unknown command 'srve'; did you mean serve?\nUsage:\n")


@pytest.mark.parametrize("arguments", [("--help",), ("serve", "--help"), ("dial", "-h")])
def test_help_lists_every_command(run_forward: RunForward, arguments: tuple[str, ...]) -> None:
    done = run_forward(*arguments)
    assert done.status == 0
    for command in ("serve", "dial", "key"):
        assert f"\n  forward.py {command} --" in done.stdout


def test_taken_port_is_reported(setting: Setting) -> None:
    with socket.create_server((LOCALHOST, 0)) as taken:
        port = taken.getsockname()[1]
        peer = encode_key(setting.home.public_key)
        program = setting.start("dial", "laptop", "--peer", peer, "--port", str(port))
        assert program.wait() == 1
        assert program.lines == [f"forward: cannot listen on 127.0.0.1:{port}: Address already in use"]
