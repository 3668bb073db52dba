"""stmgr relay-status: the status in a terminal."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import IO

import pytest

import stmgr
from offset_common.identity import encode_key
from offset_common.status.relay_status import byte_text, duration, status_lines
from tests.status.relays import RelayWithStatus
from tests.support.node import Node, make_tunnel
from tests.support.process import ROOT, wait_until
from tests.support.relay_process import LOCALHOST
from tests.terminals import Terminal


def run(url: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command; return exit status, output and error."""
    status = stmgr.main(["relay-status", url])
    out, err = capsys.readouterr()
    return status, out, err


def test_command_shows_what_the_page_shows(
    relay: RelayWithStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    relay.wait_until_empty()  # the connections of earlier tests have ended
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        make_tunnel(caller, callee, callee.listen())
        wait_until(lambda: relay.status()["connections"] == 3, "the status with these connections")
        status, out, err = run(relay.url, capsys)
    assert (status, err) == (0, "")
    assert encode_key(relay.public_key) in out
    limit = relay.status()["limits"][0]["limit"]
    assert f"] 3 of {limit:,} connections\n" in out
    assert "listener: 1, pending connect: 0, tunnel: 2" in out
    assert encode_key(callee.public_key) in out
    assert "rejected by the listener" in out
    assert "relay ready: address=" in out
    assert "\x1b" not in out


@pytest.mark.parametrize(
    "form",
    ["{port}", ":{port}", "{host}:{port}", "http://{host}:{port}/", "http://{host}:{port}/status.json"],
)
def test_short_forms_of_the_url_work(
    form: str, relay: RelayWithStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(form.format(host=LOCALHOST, port=relay.status_port), capsys)[0] == 0


# Runs stmgr, which then asks ten times a second.
IMPATIENT = (
    "import sys, stmgr; from offset_common.status import relay_status; relay_status.WATCH_INTERVAL = 0.1; "
    "sys.exit(stmgr.main())"
)


def watch_command(relay: RelayWithStatus) -> list[str]:
    """Return the command line that watches a relay."""
    return [sys.executable, "-u", "-c", IMPATIENT, "relay-status", relay.url, "--watch"]


@contextmanager
def watched_lines(relay: RelayWithStatus) -> Iterator[IO[str]]:
    """Watch a relay in the block; yield the output."""
    with subprocess.Popen(watch_command(relay), cwd=ROOT, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        try:
            yield watching.stdout
            assert watching.poll() is None
        finally:
            watching.kill()


def test_watch_shows_rates(relay: RelayWithStatus) -> None:
    rates = re.compile(r"  now: .*/s received, .*/s sent, \d+\.\d new tunnels/s$")
    with watched_lines(relay) as lines:
        assert any(map(rates.match, lines))


def test_rates_ignore_a_step_of_the_clock(relay: RelayWithStatus) -> None:
    before = relay.status()
    after = {**before, "time": before["time"] - 3600, "uptime_seconds": before["uptime_seconds"] + 2}
    after["totals"] = {**before["totals"], "tunnels": before["totals"]["tunnels"] + 5}
    after["totals"]["received_bytes"] += 2048
    assert "  now: 1.0 KiB/s received, 0 B/s sent, 2.5 new tunnels/s" in status_lines(after, False, before)


def test_watch_reports_the_loss_of_the_relay(tmp_path) -> None:
    relay = RelayWithStatus(tmp_path)
    try:
        with watched_lines(relay) as lines:
            assert lines.readline().startswith("relay ")
            relay.kill()
            assert any(line.startswith(f"no answer from {relay.url}: ") for line in lines)
    finally:
        relay.kill()


@pytest.mark.parametrize(
    "url", ["", "ftp://a", "http://", "http://[", "http://a:b", "http://a:99999", "a b:1", "\n"]
)
def test_an_invalid_url_is_reported_in_one_line(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(url, capsys)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert "is not the address of a status page; write http://127.0.0.1:9090" in err


def test_an_unreachable_relay_is_reported_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run("http://127.0.0.1:1", capsys)
    assert (status, out) == (1, "")
    assert err.startswith("stmgr: no answer from http://127.0.0.1:1: connection refused; check that strelay")
    assert err.count("\n") == 1


def test_a_name_that_does_not_resolve_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run("nosuch.invalid:9090", capsys)
    assert (status, out) == (1, "")
    assert err == "stmgr: the name 'nosuch.invalid' does not resolve; check its spelling\n"


def test_https_says_that_the_page_has_no_tls(
    relay: RelayWithStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    url = f"https://{LOCALHOST}:{relay.status_port}"
    status, out, err = run(url, capsys)
    assert (status, out) == (1, "")
    plain = url.replace("https", "http")
    assert err == f"stmgr: the page at {url} uses HTTP without TLS; write {plain}\n"


@contextmanager
def server(answer: Callable[[BaseHTTPRequestHandler], tuple[int, bytes]]) -> Iterator[str]:
    """Answer requests with a status and a body, or the target of a redirection; the value is the URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answer(self)
            self.send_response(status)
            if status // 100 == 3:
                self.send_header("Location", body.decode())
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer((LOCALHOST, 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=[0.01])
        thread.start()
        try:
            yield f"http://{LOCALHOST}:{served.server_port}"
        finally:
            served.shutdown()
            thread.join()


@pytest.mark.parametrize("path", ["/relay", "/relay/", "/relay/status.json", "/relay/metrics"])
def test_the_path_and_the_password_of_a_proxy_are_used(
    path: str, relay: RelayWithStatus, capsys: pytest.CaptureFixture[str]
) -> None:
    status = json.dumps(relay.status("?list=0")).encode()
    requests: list[tuple[str, str]] = []

    def answer(handler: BaseHTTPRequestHandler) -> tuple[int, bytes]:
        requests.append((handler.path, handler.headers.get("Authorization", "")))
        return (200, status) if requests[-1][1] == "Basic bWU6YSBi" else (401, b"no")

    with server(answer) as url:
        host = url.removeprefix("http://")
        assert run(f"http://me:a%20b@{host}{path}", capsys)[0] == 0
        refused = run(f"http://me:x@{host}{path}", capsys)
    assert requests[0] == ("/relay/status.json?list=0", "Basic bWU6YSBi")
    advice = "give its user and password, as in https://USER:PASSWORD@HOST/"
    assert refused == (1, "", f"stmgr: {url}{path} refuses access; {advice}\n")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"draining": 1}']
)
def test_an_unexpected_answer_is_reported_in_one_line(
    body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(lambda _: (200, body)) as url:
        status, out, err = run(url, capsys)
    assert (status, out) == (1, "")
    assert err == f"stmgr: the answer of {url} is not the status of a relay; give the address of --status\n"


def test_an_error_answer_is_shown_without_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    with server(lambda _: (503, b"busy \x1b[31m\nmore")) as url:
        status, _, err = run(url, capsys)
    assert status == 1
    assert err == f"stmgr: {url} answers 503: busy \\x1b[31m\\nmore\n"


@pytest.mark.parametrize("target", ["https://relay.example.com/relay/status.json?list=0", "/login"])
def test_a_redirection_is_reported_with_its_target(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    # A proxy that serves only https://, or a page where people log in.
    with server(lambda _: (301, target.encode())) as url:
        done = run(url, capsys)
    assert done == (1, "", f"stmgr: {url} leads to {target}; give that address\n")


@pytest.mark.parametrize("body", [b"", b"\r\n<html>\r\n<head><title>502 Bad Gateway</title></head>"])
def test_an_error_without_text_is_reported_with_its_reason(
    body: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    with server(lambda _: (502, body)) as url:
        done = run(url, capsys)
    assert done == (1, "", f"stmgr: {url} answers 502: Bad Gateway\n")


def test_values_cannot_write_escapes(relay: RelayWithStatus, capsys: pytest.CaptureFixture[str]) -> None:
    status = relay.status("?list=0")
    status["log"].insert(
        0, {"time": 0, "level": "info", "event": "\x1b]0;", "fields": {"a": "\n"}, "times": 1}
    )
    status["public_key"] = "\x1b[2J"
    with server(lambda _: (200, json.dumps(status).encode())) as url:
        code, out, _ = run(url, capsys)
    assert code == 0
    assert "\x1b" not in out


def test_the_wrong_port_is_reported_in_one_line(
    capsys: pytest.CaptureFixture[str], relay: RelayWithStatus
) -> None:
    status, _, err = run(f"http://{LOCALHOST}:{relay.port}", capsys)
    assert status == 1
    assert err.count("\n") == 1


def test_numbers_are_short() -> None:
    assert [byte_text(size) for size in (0, 1023, 1024, 10**6, 10**9, 10**13)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "977 KiB",
        "954 MiB",
        "9.1 TiB",
    ]
    assert [duration(seconds) for seconds in (-1, 90, 119, 7200, 200_000)] == [
        "0 s",
        "90 s",
        "119 s",
        "2 h",
        "2 d",
    ]


def test_the_terminal_is_cleared_between_watches(relay: RelayWithStatus) -> None:
    """On a terminal the next status takes the place of the last one."""
    terminal = Terminal(watch_command(relay), environment={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_until(lambda: terminal.text.count("\x1b[H\x1b[2J") > 1, "a second status")
    finally:
        terminal.close()
