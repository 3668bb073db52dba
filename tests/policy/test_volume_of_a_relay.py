"""The usage file of a running relay: killed, locked, and on a full disk."""

from __future__ import annotations

import contextlib
import shutil
import signal
import sqlite3
import time
from pathlib import Path

import pytest

from offset_common.policy.usage import TOTAL, UsageFile, month_of
from tests.policy.test_rates_of_a_relay import tunnel
from tests.support.fault_injection import inject
from tests.support.process import wait_until
from tests.support.relay_process import RelayProcess, StartRelay

MESSAGE = bytes(50_000)
SAVE_SOON = "offset_common.policy.volume:SAVE_INTERVAL=0.5"


def used(path: Path) -> int:
    """Return the bytes in the file."""
    with contextlib.suppress(KeyError):
        return UsageFile(str(path)).load(month_of(time.time()))[TOTAL].received
    return 0


def exchange(relay: RelayProcess) -> None:
    """Send a message through a tunnel."""
    with tunnel(relay) as (near, far):
        near.send(MESSAGE)
        assert far.receive() == MESSAGE


def test_saved_volumes_outlive_a_killed_relay(tmp_path: Path, start_relay: StartRelay) -> None:
    path = tmp_path / "usage.db"
    relay = start_relay("--usage", str(path), prefix=inject(SAVE_SOON))
    exchange(relay)
    wait_until(lambda: used(path) > len(MESSAGE), "a save")
    relay.stop(signal.SIGKILL)
    before = used(path)
    assert before > len(MESSAGE)
    again = start_relay("--usage", str(path))
    exchange(again)
    again.stop_cleanly()
    assert used(path) >= before + len(MESSAGE)


def test_a_locked_file_does_not_stop_forwarding(tmp_path: Path, start_relay: StartRelay) -> None:
    path = tmp_path / "usage.db"
    UsageFile(str(path)).load("2026-01")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        prefix = inject(SAVE_SOON, "offset_common.policy.usage:LOCK_TIMEOUT=0.2")
        relay = start_relay("--usage", str(path), "--quota", "1G", prefix=prefix)
        relay.wait_for_line('^warning: usage file unavailable: .*reason="database is locked"')
        exchange(relay)
        database.execute("ROLLBACK")
    relay.stop_cleanly()
    assert used(path) > len(MESSAGE)


@pytest.mark.skipif(shutil.which("prlimit") is None, reason="needs prlimit")
def test_a_full_disk_does_not_stop_forwarding(tmp_path: Path, start_relay: StartRelay) -> None:
    path = tmp_path / "usage.db"
    relay = start_relay("--usage", str(path), prefix=["prlimit", "--fsize=4096", *inject(SAVE_SOON)])
    relay.wait_for_line("^warning: usage file unavailable")
    exchange(relay)
    relay.stop()
    assert any("error: last volumes not saved" in line for line in relay.lines)


def test_a_quota_holds_in_workers(start_relay: StartRelay) -> None:
    relay = start_relay("--quota", "60k", "--workers", "2")
    with tunnel(relay) as (near, far):
        near.send(MESSAGE)
        assert far.receive() == MESSAGE
        near.send(MESSAGE)
        assert far.receive() == MESSAGE
        assert near.messages_until_end() == []
    relay.wait_for_end(role="tunnel", reason="the monthly quota is used up")
    relay.stop_cleanly()


def test_what_workers_forward_is_counted(tmp_path: Path, start_relay: StartRelay) -> None:
    path = tmp_path / "usage.db"
    relay = start_relay("--usage", str(path), "--workers", "2")
    exchange(relay)
    relay.wait_for_end(role="tunnel", count=2)
    relay.stop_cleanly()
    assert len(MESSAGE) < used(path) < len(MESSAGE) + 2000
