"""The option --status: addresses, warnings and mistakes; without it, the status server is not loaded."""

from __future__ import annotations

import errno
import signal
import socket
from pathlib import Path

import pytest

from offset_common.identity import encode_key
from offset_common.status import service
from tests.commands import FILES, run_strelay
from tests.status.relays import RelayWithStatus
from tests.support.node import Node
from tests.support.process import free_port, wait_until
from tests.support.relay_process import LOCALHOST


def run(capsys: pytest.CaptureFixture[str], status: str) -> tuple[int, list[str]]:
    """Run a relay that cannot start; return the exit status and the lines on standard error."""
    done = run_strelay(capsys, "-i", FILES / "relay.ident", "-l", f"{LOCALHOST}:0", "--status", status)
    assert done.out == ""
    return done.status, done.err.splitlines()


@pytest.mark.parametrize("form", ["{}", ":{}"])
def test_a_port_alone_is_on_loopback(form: str, tmp_path: Path) -> None:
    port = free_port()
    relay = RelayWithStatus(tmp_path, status=form.format(port))
    try:
        assert f"address={LOCALHOST}:{port}" in relay.wait_for_line("status ready: ")
        assert relay.get("/healthz").status == 200
        assert relay.count_lines("warning") == 0
    finally:
        relay.kill()


def test_an_address_open_to_others_causes_a_warning(tmp_path: Path) -> None:
    relay = RelayWithStatus(tmp_path, status="0.0.0.0:0")
    try:
        assert relay.count_lines(r"warning.*status is open to other machines: address=0\.0\.0\.0:") == 1
        assert relay.get("/healthz", Host="relay.example.com").status == 200
    finally:
        relay.kill()


def test_names_of_the_access_file_are_shown(tmp_path: Path) -> None:
    access = tmp_path / "access.txt"
    access.write_text("")
    relay = RelayWithStatus(tmp_path, "--access", str(access))
    try:
        with Node(relay.endpoint()) as node:
            access.write_text(f"listen {encode_key(node.public_key)} Alice's shop\n", "utf-8")
            relay.process.send_signal(signal.SIGHUP)
            node.listen()
            wait_until(lambda: relay.status("?list=1")["list"]["rows"][:1], "a listener")
            wait_until(
                lambda: relay.status("?list=1")["list"]["rows"][0]["name"] == "Alice's shop", "the name"
            )
    finally:
        relay.kill()


def test_a_port_in_use_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server((LOCALHOST, 0)) as server:
        address = f"{LOCALHOST}:{server.getsockname()[1]}"
        status, lines = run(capsys, address)
    assert status == 1
    assert lines == [
        f"strelay: --status: cannot listen on {address}: another program has this port; stop it, or choose"
        " another port"
    ]


def test_too_many_open_files_are_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_descriptor(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(service, "HttpServer", no_descriptor)
    status, lines = run(capsys, "0")
    assert status == 1
    assert lines == [
        "strelay: cannot serve the status: this process has too many open files; raise the limit with"
        " ulimit -n"
    ]


@pytest.mark.parametrize("value", ["nonsense", "1.2.3.4.5:80", "127.0.0.1:99999", "99999", "", "http://a:1"])
def test_an_invalid_address_is_reported_in_one_line(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, lines = run(capsys, value)
    assert status == 2
    assert len(lines) == 1
    assert lines[0].startswith("strelay: --status")


def test_the_relay_stops_at_once_with_clients_connected(tmp_path: Path) -> None:
    relay = RelayWithStatus(tmp_path)
    with relay.connect():
        relay.stop_cleanly()
