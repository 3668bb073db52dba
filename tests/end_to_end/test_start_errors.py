"""strelay.py when it cannot start: one line with the problem, and the exit status."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from offset_common.policy.usage import UsageFile
from tests.commands import run_python
from tests.support.process import PATIENCE, ROOT
from tests.support.relay_process import RelayProcess, command, without_root, write_identity

UNPRIVILEGED_PORTS = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start")


def fail_to_start(
    identity: Path, *options: str, address: str = "127.0.0.1:0", prefix: Sequence[str] = ()
) -> str:
    """Run a relay that cannot start; return the one line with which it ends."""
    arguments = [*prefix, *command(identity, address, *options)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    return done.stderr


def test_taken_port_is_reported(relay: RelayProcess, tmp_path: Path) -> None:
    address = f"127.0.0.1:{relay.port}"
    message = fail_to_start(write_identity(tmp_path), address=address)
    assert message.startswith(f"strelay: --laddr: cannot listen on {address}: ")


@pytest.mark.skipif(
    UNPRIVILEGED_PORTS.exists() and int(UNPRIVILEGED_PORTS.read_text()) <= 1,
    reason="every user may use every port here",
)
def test_privileged_port_is_reported(tmp_path: Path) -> None:
    assert "1024" in fail_to_start(write_identity(tmp_path), address="127.0.0.1:1", prefix=without_root())


REFUSES_A_THREAD = """
import sys, threading
name, start = sys.argv.pop(1), threading.Thread.start
def start_others(thread):
    if thread.name == name:
        raise RuntimeError("can't start new thread")
    start(thread)
threading.Thread.start = start_others
import strelay
sys.exit(strelay.main())
"""


@pytest.mark.parametrize(("thread", "option"), [("status", "--status=0"), ("usage", "--usage=usage.db")])
def test_refused_thread_is_reported(tmp_path: Path, thread: str, option: str) -> None:
    _, _, *arguments = command(write_identity(tmp_path), "127.0.0.1:0", option)
    line = ["-c", REFUSES_A_THREAD, thread, *arguments]
    status, _, err = run_python(*line, directory=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert status == 1
    assert (
        "the system allows no more threads; raise the limit on processes (ulimit -u" in err.splitlines()[-1]
    )
    assert "Traceback" not in err


def test_unreadable_identity_is_reported(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    identity.chmod(0)
    assert str(identity) in fail_to_start(identity, prefix=without_root())


@pytest.mark.parametrize("check", [(), ("--check",)], ids=["start", "check"])
@pytest.mark.parametrize("read_only", ["file", "directory", "directory of a new file"])
def test_unwritable_usage_file_is_reported(tmp_path: Path, read_only: str, check: tuple[str, ...]) -> None:
    identity = write_identity(tmp_path)
    usage = tmp_path / "volumes" / "usage.db"
    usage.parent.mkdir()
    if read_only != "directory of a new file":
        UsageFile(str(usage)).load("2026-11")
    (usage if read_only == "file" else usage.parent).chmod(0o444 if read_only == "file" else 0o555)
    message = fail_to_start(identity, "--usage", str(usage), *check, prefix=without_root())
    assert message.startswith(f"strelay: {usage}: ") and "directory" in message
