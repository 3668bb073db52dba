"""`stforward to --stdio`: one connection over standard input and output."""

from __future__ import annotations

import os
import signal
import subprocess

import pytest

from tests.forward.programs import Machine, Setting, echo, read_all, server
from tests.support.process import PATIENCE


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
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
