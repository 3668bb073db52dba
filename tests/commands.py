"""Run the programs, in this process or as programs of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple, Optional

import pytest

import stmgr
import strelay
from offset_common.relay.signals import HANDLED

ROOT = Path(__file__).resolve().parent.parent
FILES = ROOT / "tests" / "vectors" / "files"  # made by the original stmgr


class Outcome(NamedTuple):
    """The exit status and the output of a command."""

    status: int
    out: str
    err: str


def run_stmgr(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run a stmgr command in this process."""
    status = stmgr.main([str(word) for word in words])
    return Outcome(status, *capsys.readouterr())


def run_strelay(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    """Run strelay in this process with options that start no relay; restore the signal handlers."""
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        status = strelay.main([str(word) for word in words])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return Outcome(status, *capsys.readouterr())


def run_python(
    *words: object, directory: Optional[Path] = None, environment: Optional[dict[str, str]] = None
) -> Outcome:
    """Run the Python of the tests with some arguments and additional environment variables."""
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=directory,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def run_script(script: str, *words: object, **environment: str) -> Outcome:
    """Run a script of the project as a program, with additional environment variables."""
    return run_python(ROOT / script, *words, environment=environment)
