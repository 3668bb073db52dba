"""The tutorials of docs/ work as they are written."""

from __future__ import annotations

import doctest
import shlex
import subprocess
import sys
from pathlib import Path

from offset_common.identity import encode_key, load_identity
from tests.documents import ROOT, TUTORIAL_COMMANDS, blocks, environment, make_clone
from tests.support.process import PATIENCE, LoggedProcess, free_port


def start(line: str, directory: Path) -> LoggedProcess:
    """Run a command of a tutorial, which goes on."""
    return LoggedProcess([sys.executable, *shlex.split(line)[1:]], directory)


def run(line: str, directory: Path) -> str:
    """Run a command of a tutorial; return its output."""
    words = [sys.executable, *shlex.split(line)[1:]]
    done = subprocess.run(
        words, cwd=directory, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
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
