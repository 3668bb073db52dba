"""The programs in examples/ that people copy: they work, and survive bad callers and relay restarts."""

from __future__ import annotations

import ast
import importlib
import json
import os
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import ModuleType

import pytest

from offset_common.client import OffsetError, RelayTicket, Tunnel, connect
from offset_common.errors import SilenceError
from offset_common.identity import Identity, encode_key, save_identity
from tests.commands import run_python, run_script
from tests.examples.programs import Programs
from tests.support.process import PATIENCE, ROOT, LoggedProcess, wait_until
from tests.support.relay_process import StartRelay


def listener_answers(programs: Programs) -> bool:
    return programs.call().stdout == "you said hello\n"


def rpc_works(programs: Programs) -> bool:
    return programs.run("json_rpc.py", "call", "add", "1", "2").stdout == "3\n"


def file_arrives(programs: Programs) -> bool:
    content = os.urandom(700_000)
    name = content[:8].hex()
    (programs.directory / name).write_bytes(content)
    done = programs.run("send_file.py", "send", name)
    sent = done.stdout == f"sent {name}, {len(content)} bytes\n"
    return sent and (programs.inbox / name).read_bytes() == content


def join_chat(programs: Programs) -> subprocess.Popen[str]:
    """Start a guest of a chat."""
    return subprocess.Popen(
        programs.command("chat.py", "join", "ticket", "phone", encode_key(programs.home.public_key), "ann"),
        cwd=programs.directory,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def chat_works(programs: Programs) -> bool:
    """Join and leave; the room tells a guest that it has joined."""
    with join_chat(programs) as guest:
        assert guest.stdout is not None and guest.stdin is not None
        line = next((line for line in guest.stdout if not line.startswith("* ")), "")
        guest.stdin.close()
        guest.kill()
    return line == "ann is here\n"


WORKS: dict[str, Callable[[Programs], bool]] = {
    "listener.py": listener_answers,
    "json_rpc.py": rpc_works,
    "send_file.py": file_arrives,
    "chat.py": chat_works,
}
every_program = pytest.mark.parametrize("script", list(WORKS))


NONSENSE = (b"", b"\xff\xfe", b"[" * 100_000, b'{"id": 1}', b"[]", b'{"name": "../x", "size": -1}')


def send_nonsense(ticket: RelayTicket, caller: Identity, key: bytes) -> None:
    with connect(ticket, caller, key, end_to_end=True) as tunnel, suppress(OffsetError, TimeoutError):
        for message in NONSENSE:
            tunnel.send(message)
        tunnel.receive(1)


def crash(ticket: RelayTicket, caller: Identity, key: bytes) -> None:
    tunnel = connect(ticket, caller, key, end_to_end=True)
    tunnel.send(b'{"name": "half", "size": 1000000, "sha256": "0"}')
    tunnel.send(bytes(100_000))
    tunnel.abort()


def speak_plainly(ticket: RelayTicket, caller: Identity, key: bytes) -> None:
    with connect(ticket, caller, key) as plain:
        plain.send(b"no handshake")


@every_program
def test_program_works_after_each_bad_caller(programs: Programs, script: str) -> None:
    process = programs.serve(script)
    wait_until(lambda: WORKS[script](programs), "the first success")
    for disturb in (send_nonsense, crash, speak_plainly):
        disturb(programs.ticket, programs.phone, programs.home.public_key)
        assert WORKS[script](programs), disturb.__name__
    assert not (programs.inbox / "half").exists()
    assert process.count_lines("Traceback") == 0


@every_program
def test_program_survives_a_relay_restart(tmp_path: Path, start_relay: StartRelay, script: str) -> None:
    relay = start_relay()
    programs = Programs(tmp_path, relay)
    with programs.started:
        process = programs.serve(script)
        relay.kill()
        process.wait_for_line("^not listening: .*; retrying in ")
        start_relay(address=relay.addresses[0], identity=relay.identity)
        process.wait_for_line("^listening for ", count=2)
        wait_until(lambda: WORKS[script](programs), "a success after the restart")


def test_rpc_errors_have_their_codes(programs: Programs) -> None:
    programs.serve("json_rpc.py")
    wait_until(lambda: rpc_works(programs), "the first success")
    for call, reason in {
        ("nothing",): "method not found (error -32601)",
        ("upper", "1"): "invalid params: the parameter must be a string (error -32602)",
        ("add", "x", "2"): "invalid params: every parameter must be a number (error -32602)",
    }.items():
        done = programs.run("json_rpc.py", "call", *call)
        assert (done.returncode, done.stderr) == (1, f"json_rpc: {reason}\n")


def test_existing_file_is_not_overwritten(programs: Programs) -> None:
    programs.serve("send_file.py")
    wait_until(lambda: file_arrives(programs), "the first success")
    (programs.inbox / "kept").write_text("old")
    (programs.directory / "kept").write_text("new")
    done = programs.run("send_file.py", "send", "kept")
    assert (done.returncode, done.stderr) == (1, "send_file: refused: a file with that name exists there\n")
    assert (programs.inbox / "kept").read_text() == "old"


def test_file_that_cannot_be_read_is_reported(programs: Programs) -> None:
    done = programs.run("send_file.py", "send", "nofile")
    assert (done.returncode, done.stderr) == (1, "send_file: nofile: no such file or directory\n")


def test_receiver_needs_a_directory(programs: Programs) -> None:
    line = ("receive", "ticket", "home", "nowhere", "A" * 43)
    done = run_python(ROOT / "examples" / "send_file.py", *line, directory=programs.directory)
    assert done == (1, "", "send_file: there is no directory nowhere; create it first\n")


def test_absent_receiver_is_reported_once_and_at_the_end(programs: Programs) -> None:
    (programs.directory / "file").write_text("content")
    program = (
        "import sys; from examples import send_file; from offset_common.command_line import run; "
        "send_file.PAUSE, send_file.ATTEMPTS = 0, 3; sys.exit(run('send_file', send_file.main))"
    )
    arguments = ["send", "ticket", "phone", encode_key(programs.home.public_key), "file"]
    environment = {"PYTHONPATH": str(ROOT)}
    done = run_python("-c", program, *arguments, directory=programs.directory, environment=environment)
    first, last = done.err.splitlines()
    assert first.endswith("it does not listen here, or rejected the connect; trying again")
    assert last == f"send_file: {first.partition(';')[0]}"


def imported(script: str) -> ModuleType:
    """Return an example as a module, and keep the tests' own handler of Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    module = importlib.import_module(f"examples.{script}")
    signal.signal(signal.SIGINT, before)
    return module


def test_rpc_result_that_fits_no_message_is_an_error() -> None:
    json_rpc = imported("json_rpc")
    request = {"id": 1, "method": "upper", "params": ["\u0149" * 170_000]}  # becomes two characters
    response = json.loads(json_rpc.respond(json.dumps(request).encode()))
    assert response["error"] == {"code": -32602, "message": "invalid params: the result is too large"}


def test_sender_tries_again_after_silence(
    programs: Programs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    send_file = imported("send_file")
    attempts: list[object] = []

    def fall_silent(*arguments: object, **options: object) -> Tunnel:
        attempts.append(arguments)
        raise SilenceError("nothing received for 32 s")

    monkeypatch.setattr(send_file, "connect", fall_silent)
    monkeypatch.setattr(send_file, "ATTEMPTS", 2)
    monkeypatch.setattr(send_file, "PAUSE", 0)
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(SilenceError):
        send_file.send(programs.ticket, programs.phone, bytes(32), tmp_path / "file")
    assert len(attempts) == 2


def test_guest_survives_a_line_that_fits_no_message(programs: Programs) -> None:
    programs.serve("chat.py")
    with join_chat(programs) as guest:
        assert guest.stdout is not None and guest.stdin is not None
        assert "ann is here\n" in guest.stdout
        guest.stdin.write("x" * 1_100_000 + "\n")
        guest.stdin.close()
        assert guest.stdout.read() == "* this line was not sent\n"
        assert guest.wait(PATIENCE) == 0


EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py") if path.read_text())


@pytest.mark.parametrize("script", EXAMPLES)
def test_help_page_is_the_docstring(script: str) -> None:
    page = ast.get_docstring(ast.parse((ROOT / "examples" / script).read_text("utf-8")))
    done = run_script(f"examples/{script}", "--help")
    assert (done.status, done.out.strip(), done.err) == (0, page, "")


@every_program
def test_server_ends_quietly_at_ctrl_c(programs: Programs, script: str) -> None:
    process = programs.serve(script)
    shown = list(process.lines)
    assert process.stop(signal.SIGINT) == -signal.SIGINT  # a shell reports it as 130
    assert process.lines == shown


@pytest.mark.parametrize("script", [script for script in EXAMPLES if script != "small_relay.py"])
def test_ctrl_c_is_quiet_during_the_imports(script: str) -> None:
    command = Programs.command(script, "--help")
    process = LoggedProcess([command[0], "-X", "importtime", *command[1:]])
    process.wait_for_line("offset_common")
    assert process.stop(signal.SIGINT) in (0, -signal.SIGINT)  # it may have been faster
    assert process.count_lines("Traceback|KeyboardInterrupt") == 0


def test_guests_see_what_the_others_type(programs: Programs) -> None:
    programs.serve("chat.py")
    key = encode_key(programs.home.public_key)
    output = programs.directory / "output"
    save_identity(Identity.generate(), programs.directory / "guest")
    with output.open("w") as file:
        reading = subprocess.Popen(
            programs.command("chat.py", "join", "ticket", "guest", key, "bob"),
            cwd=programs.directory,
            stdin=subprocess.PIPE,
            stdout=file,
        )
    try:
        wait_until(lambda: "bob is here" in output.read_text(), "bob in the room")
        with connect(programs.ticket, programs.phone, programs.home.public_key, end_to_end=True) as tunnel:
            tunnel.send(b"ann")
            tunnel.send(b"hello \x1b[31mall")
            wait_until(lambda: "ann: hello [31mall\n" in output.read_text(), "the line")
        wait_until(lambda: "ann has left" in output.read_text(), "the end")
    finally:
        reading.kill()
        reading.communicate()
