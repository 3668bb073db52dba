"""The configuration file: what it may contain, what overrides it, and what a reload changes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

import strelay
from offset_common.commands.relay_options import read_balancers, read_limits
from offset_common.errors import FileError, UsageError
from offset_common.policy.config import ConfiguredArguments
from tests.commands import FILES, run_script, run_strelay
from tests.documents import blocks
from tests.policy.test_rates_of_a_relay import least_seconds, seconds_for, tunnel
from tests.support.process import ROOT, LoggedProcess
from tests.support.relay_log import Reason
from tests.support.relay_process import StartRelay

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tomllib") is None and importlib.util.find_spec("tomli") is None,
    reason="needs Python 3.11, or tomli",
)

PAGE = strelay.__doc__ or ""
REQUIRED = 'idfile = "a.ident"\nladdr = "127.0.0.1:0"\n'


def read(directory: Path, text: str, *line: str) -> dict[str, Any]:
    """Return the arguments of a file and a command line."""
    path = directory / "relay.toml"
    path.write_text(text, "utf-8")
    return ConfiguredArguments(PAGE, ["--config", str(path), *line], "").read()


def test_values_have_the_names_of_the_options(tmp_path):
    arguments = read(
        tmp_path,
        REQUIRED + 'rate = "1.5M"\nper-key = 20\nstall = 7.5\nproxy-protocol = ["10.0.0.0/8", "::1"]\n',
    )
    assert arguments["--idfile"] == "a.ident"
    assert arguments["--rate"] == "1.5M"
    assert arguments["--per-key"] == "20"
    assert arguments["--stall"] == "7.5"
    assert arguments["--proxy-protocol"] == ["10.0.0.0/8", "::1"]


def test_the_command_line_overrides_the_file(tmp_path):
    arguments = read(tmp_path, REQUIRED + "drain = 9\nstall = 9\n", "--drain", "5", "-l", "127.0.0.1:9")
    assert arguments["--drain"] == "5", "also where it names the default"
    assert arguments["--laddr"] == ["127.0.0.1:9"]
    assert arguments["--stall"] == "9"


def test_missing_options_have_their_defaults(tmp_path):
    arguments = read(tmp_path, REQUIRED)
    assert arguments["--buffers"] == "12"
    assert arguments["--connections"] == "auto"
    assert arguments["--rate"] is None
    assert arguments["--proxy-protocol"] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("rate = ", "not valid TOML: "),
        ("rat = 1", "unknown option 'rat'; did you mean rate?"),
        ("config = 'x'", "unknown option 'config'"),
        ("x = " + "[" * 20_000, "its values are nested too deeply"),
        ("rate = true", "rate must be a string or a number, not true or false"),
        ("rate = [1]", "rate must be a string or a number, not a list"),
        ("[rate]\nall = 1", "'rate' is a section; write the options without sections"),
        ("rate = 0x" + "f" * 10_000, "rate is a number with too many digits"),
        (f"{'k' * 10_000} = 1", f"unknown option '{'k' * 60}...'"),
        ("proxy-protocol = [[1]]", "proxy-protocol must be a string or a number, not a list"),
    ],
)
def test_a_mistake_is_explained(text, reason, tmp_path):
    with pytest.raises(FileError) as caught:
        read(tmp_path, text)
    assert caught.value.reason.startswith(reason)


def test_a_value_without_quotes_is_answered_with_an_example(tmp_path):
    with pytest.raises(
        FileError, match=r"; write each option as NAME = VALUE, and text in quotes, as in laddr = "
    ):
        read(tmp_path, "laddr = 0.0.0.0:4567")


def test_required_options_may_be_in_either_place(tmp_path):
    with pytest.raises(UsageError, match="--laddr is missing; give it on the command line or in"):
        read(tmp_path, "", "--idfile", "a")
    assert read(tmp_path, "idfile = 'a'", "-l", "b")["--idfile"] == "a"


def test_an_old_python_says_what_to_install(tmp_path, monkeypatch, capsys):
    path = tmp_path / "relay.toml"
    path.write_text(REQUIRED)
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    done = run_strelay(capsys, "--config", path)
    assert done.status == 1
    assert ".venv/bin/pip install tomli, or with apt-get install python3-tomli" in done.err


@pytest.fixture
def configured(tmp_path: Path, start_relay: StartRelay):
    """Start a relay with a configuration file; return it and a function that changes and reloads the file."""
    path = tmp_path / "relay.toml"
    path.write_text("tunnels = 5\n")
    relay = start_relay("--config", str(path), "--per-key", "7")

    def change(text: str) -> str:
        before = len(relay.lines)
        path.write_text(text)
        relay.process.send_signal(signal.SIGHUP)
        relay.wait_for(lambda lines: any("reloaded" in each for each in lines[before:]), "a reload")
        return next(line for line in relay.lines[before:] if "reloaded" in line)

    return relay, change


def test_limits_change_with_a_reload(configured):
    relay, change = configured
    assert change("connections = 4\nper-address = 3\n").startswith("reloaded")
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            stack.enter_context(socket.create_connection(("127.0.0.1", relay.port)))
        relay.wait_for_end(reason=Reason.EVICTED)
    relay.stop_cleanly()


def test_a_reload_says_what_needs_a_restart(configured):
    relay, change = configured
    change("workers = 2\nper-key = 3\nstall = 60\nlog-format = 'json'\n")
    options = "--log-format,--stall,--workers"
    relay.wait_for_line(f"^warning: changed options that need a restart: options={options}$")
    relay.stop_cleanly()


def test_a_mistake_in_a_reload_changes_nothing(configured):
    relay, change = configured
    for text, reason in (
        ("rate = 'fast'", "--rate must be a number of bytes"),
        ("tunnels = 0", "--tunnels must be a whole number from 1"),
        ("access = 'missing.txt'", "missing.txt: there is no file with this name"),
        ("nonsense", "not valid TOML"),
        ("rate = 0x" + "f" * 10_000, "rate is a number with too many digits"),
        ("log-format = 'xml'\ntunnels = 6", "--log-format must be text or json, not 'xml'"),
        ("status = 'foo'", "the address 'foo' has no port"),
        ("usage = '/nonexistent/u.db'", "the directory '/nonexistent' is missing"),
        ("fleet-name = 'x'", "--fleet-name needs --fleet URL"),
        ("fleet = 'ftp://h'", "--fleet: it does not begin with valkey://"),
    ):
        line = change(text)
        assert line.startswith("warning: not reloaded: reason=")
        assert reason in line
        assert len(line) < 400
    assert change("tunnels = 6").startswith("reloaded"), "after the mistake is corrected"
    relay.stop_cleanly()


@pytest.mark.parametrize(
    ("option", "value", "reason"),
    [
        ("idfile", "none", "none: there is no file with this name"),
        ("laddr", "foo:x", "the address 'foo:x' has the port 'x', which is not a number"),
        ("laddr", 5, "the address '5' is only a port"),
        ("laddr", ["127.0.0.1:1", "127.0.0.1:1"], "the address 127.0.0.1:1 is given twice"),
    ],
)
def test_a_reload_checks_required_options(option, value, reason, tmp_path):
    path = tmp_path / "relay.toml"
    options = {"idfile": str(FILES / "relay.ident"), "laddr": "127.0.0.1:0"}
    path.write_text("\n".join(f"{name} = {json.dumps(text)}" for name, text in options.items()))
    relay = LoggedProcess([sys.executable, str(ROOT / "strelay.py"), "--config", str(path)])
    try:
        relay.wait_for_line("^relay ready")
        options[option] = value
        path.write_text("\n".join(f"{name} = {json.dumps(text)}" for name, text in options.items()))
        relay.process.send_signal(signal.SIGHUP)
        assert reason in relay.wait_for_line("^warning: not reloaded: reason=")
    finally:
        relay.kill()


def test_a_reload_reads_no_identity_that_is_in_use(tmp_path, start_relay):
    path = tmp_path / "relay.toml"
    path.write_text("tunnels = 5\n")
    relay = start_relay("--config", str(path))
    relay.identity.unlink()  # like a pipe, or a file on a file system that is mounted during startup only
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for_line("^reloaded")
    relay.stop_cleanly()


def test_a_rate_can_be_set_by_a_reload(configured):
    relay, change = configured
    with tunnel(relay) as ends:
        before = seconds_for(500_000, *ends)
        change("rate = '500k'")
        assert before < least_seconds(500_000, 500_000) < seconds_for(500_000, *ends)
    relay.stop_cleanly()


def test_a_quota_can_be_set_by_a_reload(configured):
    relay, change = configured
    with tunnel(relay) as (near, far):
        near.send(bytes(50_000))
        far.receive()
        change("quota = '40k'")
        assert near.messages_until_end() == []
    relay.wait_for_end(role="tunnel", reason="the monthly quota is used up")
    relay.stop_cleanly()


IDENTITY = str(FILES / "relay.ident")
VALID = f"idfile = {json.dumps(IDENTITY)}\nladdr = '127.0.0.1:0'\n"


def test_a_check_starts_and_creates_nothing(tmp_path, capsys):
    path = tmp_path / "relay.toml"
    with socket.create_server(("127.0.0.1", 0)) as server:  # like that of the running relay
        port = server.getsockname()[1]
        text = f"usage = {json.dumps(str(tmp_path / 'u.db'))}\nstatus = 9090\n"
        path.write_text(VALID.replace(":0", f":{port}") + text)
        outcome = run_strelay(capsys, "--config", path, "--check")
    assert outcome == (0, "the configuration is valid\n", "")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("text", "status", "reason"),
    [
        ("rate = 'x'", 2, "--rate must be a number of bytes"),
        ("usage = '/nonexistent/u.db'", 1, "/nonexistent/u.db: the directory '/nonexistent' is missing"),
        ("access = 'missing.txt'", 1, "missing.txt: there is no file with this name"),
        ("fleet = 'valkey://h'", 2, "--fleet needs --fleet-laddr"),
        ("usage = ''", 1, "relay.toml: usage is empty; give it a value, or leave it out"),
        ("rat = 1", 1, "unknown option 'rat'"),
    ],
)
def test_a_check_reports_the_error_of_a_start(text, status, reason, tmp_path, capsys):
    path = tmp_path / "relay.toml"
    path.write_text(VALID + text)
    checked = run_strelay(capsys, "--config", path, "--check")
    assert (checked.status, checked.out, checked.err.count("\n")) == (status, "", 1)
    assert reason in checked.err
    started = run_script("strelay.py", "--config", path)
    assert started.status == status and checked.err in started.err


def test_a_check_needs_no_file(capsys):
    line = ["--idfile", IDENTITY, "--laddr", "127.0.0.1:0", "--check"]
    assert run_strelay(capsys, *line) == (0, "the configuration is valid\n", "")
    assert run_strelay(capsys, *line, "--drain", "-1").status == 2


def test_the_documented_file_is_valid(tmp_path):
    (text,) = blocks("operations.md", "toml")
    arguments = read(tmp_path, text)
    assert read_limits(arguments).connections_per_address == 500
    assert len(read_balancers(arguments["--proxy-protocol"])) == 2
