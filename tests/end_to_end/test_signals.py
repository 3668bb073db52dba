"""Signals to strelay.py, from the moment it is started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.relay.signals import HANDLED
from tests.support.node import Endpoint, Node, meet
from tests.support.process import PATIENCE, ROOT, LoggedProcess, wait_until
from tests.support.relay_log import parse_state
from tests.support.relay_process import LOCALHOST, StartRelay, command, write_identity
from tests.terminals import fork_with_terminal

STOPPING = [signal.SIGTERM, signal.SIGINT]
OTHER = [signal.SIGHUP, signal.SIGUSR1]

# Pauses the startup of the relay at a module that it imports, or at the identity, until stdin has a line.
PAUSED_AT_IMPORT = """
import builtins, select, sys
import strelay
real_import = builtins.__import__
def paused_import(name, *rest):
    if name == "offset_common.commands.run_relay":
        builtins.__import__ = real_import
        print("paused", file=sys.stderr, flush=True)
        while not select.select([sys.stdin], [], [], 0.05)[0]:
            pass  # a signal just before a wait without an end would not be handled
    return real_import(name, *rest)
builtins.__import__ = paused_import
sys.exit(strelay.main())
"""
# The system's resolver continues despite signals, as this long computation does.
STUCK_IN_RESOLVER = """
import hashlib, socket, sys
def look_up(*_, **__):
    print("paused", file=sys.stderr, flush=True)
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
socket.getaddrinfo = look_up
import strelay
sys.exit(strelay.main())
"""


@contextlib.contextmanager
def starting(directory: Path, program: str) -> Iterator[LoggedProcess]:
    """Run a relay that pauses during its startup."""
    arguments = command(write_identity(directory), f"{LOCALHOST}:0")[2:]
    process = LoggedProcess([sys.executable, "-c", program, *arguments], stdin=subprocess.PIPE)
    try:
        process.wait_for_line("^paused$")
        yield process
    finally:
        process.kill()


def go_on(process: LoggedProcess) -> None:
    """Let a paused startup continue."""
    assert process.process.stdin is not None
    process.process.stdin.write(b"\n")
    process.process.stdin.close()


@pytest.mark.parametrize("number", STOPPING)
@pytest.mark.parametrize("program", [PAUSED_AT_IMPORT, STUCK_IN_RESOLVER], ids=["imports", "resolver"])
def test_signal_ends_the_start_in_order(tmp_path: Path, program: str, number: signal.Signals) -> None:
    with starting(tmp_path, program) as process:
        assert process.stop(number) == 0
    assert process.lines == ["paused", f"strelay: stopped by {number.name} before it was ready"]


def test_signals_that_the_parent_blocked_are_handled(start_relay: StartRelay) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, HANDLED)
    try:
        relay = start_relay()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    relay.state()
    relay.stop_cleanly()


@pytest.mark.parametrize("number", [*OTHER, signal.SIGPIPE])
def test_other_signals_do_not_end_the_start(tmp_path: Path, number: int) -> None:
    with starting(tmp_path, PAUSED_AT_IMPORT) as process:
        process.process.send_signal(number)
        go_on(process)
        process.wait_for_line("^relay ready")
        assert process.stop() == 0


def test_early_request_for_the_state_is_answered(tmp_path: Path) -> None:
    with starting(tmp_path, PAUSED_AT_IMPORT) as process:
        process.process.send_signal(signal.SIGUSR1)
        go_on(process)
        process.wait_for(lambda lines: any(map(parse_state, lines)), "the state")


@pytest.mark.parametrize("number", OTHER)
def test_other_signals_do_not_end_the_relay(start_relay: StartRelay, number: int) -> None:
    relay = start_relay()
    relay.process.send_signal(number)
    meet(relay.endpoint())
    relay.stop_cleanly()


def test_reload_without_files_is_logged(start_relay: StartRelay) -> None:
    relay = start_relay()
    relay.process.send_signal(signal.SIGHUP)
    assert relay.wait_for_line("^nothing to reload$")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_ignored_signal_stays_ignored(tmp_path: Path, number: signal.Signals) -> None:
    """A shell starts a background job with SIGINT ignored; nohup starts a program with SIGHUP ignored."""
    shell = f'trap "" {number.name[3:]}; exec "$@"'
    relay = LoggedProcess(["sh", "-c", shell, "sh", *command(write_identity(tmp_path), f"{LOCALHOST}:0")])
    try:
        relay.wait_for_line("^relay ready")
        relay.process.send_signal(number)
        relay.process.send_signal(signal.SIGUSR1)  # handled later than a signal with a smaller number
        relay.wait_for_line("^relay state")
        assert relay.stop() == 0
    finally:
        relay.kill()
    assert relay.count_lines("nothing to reload") == 0


def test_lost_terminal_does_not_end_the_relay(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    pid, terminal = fork_with_terminal()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, command(identity, f"{LOCALHOST}:0"))
    try:
        output = b""
        while b"public_key=" not in output:
            output += os.read(terminal, 4096)
        port = int(output.partition(b"127.0.0.1:")[2].split()[0])
        os.close(terminal)
        for _ in range(3):  # the hang-up has arrived by the time that a connection is accepted again
            with Node(Endpoint((LOCALHOST, port), bytes(32))) as node:
                peer = node.dial()
                assert peer.receive_frame() == bytes(4)
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_late_signals_do_not_change_the_status(start_relay: StartRelay) -> None:
    relay = start_relay("--drain", "0")
    with contextlib.suppress(ProcessLookupError):
        while relay.alive:
            os.kill(relay.pid, signal.SIGTERM)
            os.kill(relay.pid, signal.SIGHUP)
    assert relay.wait() == 0
    wait_until(lambda: not relay.alive, "the end", PATIENCE)
