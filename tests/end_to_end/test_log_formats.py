"""All that a relay writes, in each format, is what docs/logs.md says; the journal gets priorities."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

import pytest

from tests.log_calls import OF_EVERY_LINE, documented_events
from tests.support.client import wait_for_end
from tests.support.fleet import LIBRARIES
from tests.support.node import Endpoint, Node, make_tunnel
from tests.support.process import LoggedProcess, wait_until
from tests.support.relay_log import parse_text
from tests.support.relay_process import command, write_identity

FIELDS = {(event.name, event.level): event.fields for event in documented_events()}
EXPECTED = {
    *("relay ready", "tunnel opened", "connection ended", "repeated lines left out", "relay state"),
    *("identity is exposed", "status is open to other machines", "volumes are kept in memory only"),
    *("reloaded", "not reloaded", "worker ended", "stopping", "stopped"),
}
PRIORITIES = {"info": "<6>", "warning": "<4>", "error": "<3>"}

IN_JOURNAL = ["sh", "-c", 'JOURNAL_STREAM=$(stat -Lc %d:%i /dev/stderr) exec "$@"', "sh"]
"""Runs a command as systemd does, with its standard error as the stream of the journal."""


FLEET = ("--fleet", "valkey://127.0.0.1:1/0", "--fleet-laddr", "127.0.0.1:0", "--fleet-name", "one")
"""Makes a relay a host of a fleet whose directory is unreachable."""


def options(directory: Path, log_format: str) -> list[str]:
    """Return the command line of a relay that logs many warnings."""
    (directory / "access.txt").write_text("deny 192.0.2.1\n")
    identity = write_identity(directory)
    identity.chmod(0o640)
    return command(
        identity, "127.0.0.1:0", "--log-format", log_format, "--workers", "2",
        "--status", "0.0.0.0:0", "--quota", "1T", "--access", str(directory / "access.txt"),
    )  # fmt: skip


def lines_of_a_life(
    directory: Path, log_format: str, prefix: Sequence[str] = (), more: Sequence[str] = ()
) -> list[str]:
    """Run a relay that is used, attacked, loses its workers and is reloaded; return the lines of its log."""
    relay = LoggedProcess([*prefix, *options(directory, log_format), *more])
    try:
        ready = relay.wait_for_line("relay ready")
        (port,) = re.findall(r"127\.0\.0\.1:(\d+)", ready)
        (key,) = re.findall(r"(?<![\w-])[\w-]{43}(?![\w-])", ready)
        endpoint = Endpoint(("127.0.0.1", int(port)), base64.urlsafe_b64decode(key + "="))
        with Node(endpoint) as caller, Node(endpoint) as callee:
            make_tunnel(caller, callee, callee.listen())
            for _ in range(15):
                with socket.create_connection(endpoint.address) as sock:
                    sock.sendall(b'GET /"\n<0>error: forged\r\n\r\n')
                    wait_for_end(sock)
            relay.wait_for_line("HTTP request", 10)
            for child in relay.children:
                os.kill(child, signal.SIGKILL)
            relay.wait_for_line("worker ended", 2)
        relay.process.send_signal(signal.SIGUSR1)
        relay.wait_for_line("relay state")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for_line("reloaded")
        (directory / "access.txt").write_text("deny nonsense\n")
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for_line("not reloaded")
        assert relay.stop() == 0
        return list(relay.lines)
    finally:
        relay.kill()


def parse_json(line: str) -> dict[str, Any]:
    """Parse a line that is a JSON object."""
    values: dict[str, Any] = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", values.pop("time"))
    return values


PARSERS = {"text": parse_text, "json": parse_json}


def events_in(
    lines: list[str], log_format: str, in_journal: bool = False, host: Optional[str] = None
) -> set[str]:
    """Check that each line is as documented; return the events."""
    events = set()
    for line in lines:
        priority, rest = (line[:3], line[3:]) if in_journal else ("", line)
        values = PARSERS[log_format](rest)
        level, event = values.pop("level"), values.pop("event")
        assert values.pop(OF_EVERY_LINE, None) == host, line
        assert set(values) <= FIELDS[event, level], line
        assert priority == (PRIORITIES[level] if in_journal else "")
        events.add(event)
    return events


@pytest.mark.parametrize("in_journal", [False, True])
@pytest.mark.parametrize("log_format", PARSERS)
def test_every_line_is_as_documented(tmp_path: Path, log_format: str, in_journal: bool) -> None:
    lines = lines_of_a_life(tmp_path, log_format, IN_JOURNAL if in_journal else ())
    assert events_in(lines, log_format, in_journal) >= EXPECTED


@pytest.mark.skipif(not LIBRARIES, reason="needs the package valkey or redis")
@pytest.mark.parametrize("log_format", PARSERS)
def test_every_line_of_a_fleet_names_its_host(tmp_path: Path, log_format: str) -> None:
    lines = lines_of_a_life(tmp_path, log_format, more=FLEET)
    assert events_in(lines, log_format, host="one") >= EXPECTED | {"fleet ready", "directory away"}


def test_journalctl_finds_the_warnings(tmp_path: Path) -> None:
    if (
        shutil.which("systemd-cat") is None
        or subprocess.run(["systemd-cat", "true"], stderr=subprocess.DEVNULL).returncode
    ):
        pytest.skip("needs systemd's journal")
    name = f"relay-{os.urandom(4).hex()}"
    relay = LoggedProcess(["systemd-cat", "-t", name, *IN_JOURNAL, *options(tmp_path, "text")])

    def journal(*arguments: str) -> list[str]:
        done = subprocess.run(
            ["journalctl", "-t", name, "-o", "cat", "--no-pager", *arguments], capture_output=True, text=True
        )
        return done.stdout.splitlines()

    try:
        wait_until(lambda: any(line.startswith("status ready") for line in journal()), "the last line")
        assert any(line.startswith("relay ready") for line in journal())
        warnings = journal("-p", "warning")
        assert len(warnings) == 3 and all(line.startswith("warning: ") for line in warnings)
        assert relay.stop() == 0
    finally:
        relay.kill()
