"""The tutorials of docs/ work as they are written."""

from __future__ import annotations

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from offset_common.identity import encode_key, load_identity
from tests.documents import (
    PROGRAM_COMMANDS,
    ROOT,
    TUTORIAL_COMMANDS,
    blocks,
    environment,
    make_clone,
    make_files,
)
from tests.support.process import PATIENCE, LoggedProcess, free_port, wait_until
from tests.support.relay_process import RelayProcess, relay

__all__ = ["relay"]


def start(line: str, directory: Path) -> LoggedProcess:
    """Start a command of a tutorial that keeps running."""
    return LoggedProcess([sys.executable, *shlex.split(line)[1:]], directory)


def run_once(line: str, directory: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of a tutorial without input."""
    return subprocess.run(
        [sys.executable, *shlex.split(line)[1:]],
        cwd=directory,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def run(line: str, directory: Path) -> str:
    """Run a command of a tutorial; return its output."""
    done = run_once(line, directory)
    assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    return done.stdout


def test_first_tutorial_works_as_written(tmp_path: Path) -> None:
    check, make_listener, make_caller, listen, call = TUTORIAL_COMMANDS
    here = make_clone(tmp_path)
    address = f"127.0.0.1:{free_port()}"  # the documented port may be in use on this machine
    make_run = ["env", f"LADDR={address}", "ADDRESS=", sys.executable, "tools/run.py"]
    relay = LoggedProcess(make_run, here)
    try:
        relay.wait_for_line("relay ready")
        assert run(check, here).splitlines()[-1] == "the relay works"
        run(make_listener, here)
        run(make_caller, here)
        listener = start(listen, here)
        try:
            listener.wait_for_line("^listening for ")
            key = encode_key(load_identity(here / "listener.ident").public_key)
            assert run(call.replace("PUBLIC_KEY", key), here) == "you said hello\n"
        finally:
            listener.kill()
        relay.wait_for_line("tunnel opened")
    finally:
        relay.kill()


@pytest.mark.parametrize(
    ("script", "output"),
    [("chat.py", "Ann is here\n"), ("send_file.py", "sent README.md, "), ("json_rpc.py", "3\n")],
)
def test_programs_to_copy_work_as_documented(
    script: str, output: str, relay: RelayProcess, tmp_path: Path
) -> None:
    here = make_clone(tmp_path)
    (here / "inbox").mkdir()
    keys = make_files(here, relay.ticket, "listener", "caller")
    serve, call = (
        re.sub(r"KEY_OF_\w+", lambda key: keys["caller" if key[0].endswith("SENDER") else "listener"], line)
        for line in PROGRAM_COMMANDS
        if script in line
    )
    server = start(serve, here)
    try:
        server.wait_for_line("^listening for ")

        def works() -> bool:
            # Its input stays open: a guest leaves at the end of it.
            line = [sys.executable, *shlex.split(call)[1:]]
            pipe = subprocess.PIPE
            with subprocess.Popen(line, cwd=here, stdin=pipe, stdout=pipe, text=True) as process:
                assert process.stdout is not None
                shown = next((line for line in process.stdout if not line.startswith("* ")), "")
                process.kill()
            return shown.startswith(output)

        wait_until(works, output)  # the relay may handle the first call before it knows the listener
    finally:
        server.kill()


def test_every_python_session_prints_what_is_shown() -> None:
    source = "\n".join(blocks("step-by-step.md", "pycon"))
    test = doctest.DocTestParser().get_doctest(source, {}, "step-by-step.md", None, None)
    assert len(test.examples) > 30
    report: list[str] = []
    assert doctest.DocTestRunner().run(test, out=report.append).failed == 0, "".join(report)


def test_parts_of_the_small_relay_are_all_of_it() -> None:
    page = "\n".join(blocks("build-a-relay.md", "python"))
    program = (ROOT / "examples/small_relay.py").read_text("utf-8").partition("\nplaces = ")
    parts = sorted(line for line in page.splitlines() if line)
    assert parts == sorted(line for line in "".join(program[1:]).splitlines() if line)
    assert [block for block in blocks("build-a-relay.md", "python") if block not in "".join(program)] == []
