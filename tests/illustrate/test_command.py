"""relay-check --illustrate and read_the_protocol.py --html create the page, or report one line."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.address import Address
from offset_common.illustrate import recorder
from offset_common.illustrate.recorder import Recorder, RecordingFailed
from offset_common.illustrate.recording import Recording, load_recording
from offset_common.illustrate.story import tell
from offset_common.tickets import RelayTicket
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import InitConnection, InitRole
from tests.commands import run_script, run_stmgr
from tests.support.process import PATIENCE, free_port
from tests.support.relay_process import LOCALHOST, RelayProcess


@pytest.fixture
def ticket(relay: RelayProcess, tmp_path: Path) -> Path:
    relay.ticket.save(tmp_path / "relay.relay")
    return tmp_path / "relay.relay"


def test_relay_check_writes_the_page(
    ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    status, out, err = run_stmgr(capsys, "relay-check", ticket, "--illustrate", page)
    assert (status, err) == (0, "")
    assert out.startswith(f"{page}: every byte of a run with 35 frames;")
    assert page.read_text("utf-8").startswith("<!doctype html>")


def test_the_example_runs_a_relay_of_its_own(tmp_path: Path) -> None:
    page, run = tmp_path / "page.html", tmp_path / "run.json"
    done = run_script("examples/read_the_protocol.py", "--html", page, "--record", run)
    assert (done.status, done.err) == (0, "")
    again = tmp_path / "again.html"
    assert run_script("tools/illustrate.py", run, again).status == 0
    assert again.read_text("utf-8") == page.read_text("utf-8")
    assert len(load_recording(run).frames) == 35


def test_an_unwritable_page_is_reported_in_one_line(
    ticket: Path,
    recording: Recording,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Recorder, "run", lambda recorder: recording)
    for page, words in (
        (ticket, "already exists"),
        (tmp_path / "none" / "page.html", "create it first"),
        (tmp_path, "already exists"),
    ):
        status, out, err = run_stmgr(capsys, "relay-check", ticket, "--illustrate", page)
        assert (status, out, len(err.splitlines())) == (1, "", 1)
        assert words in err


@pytest.mark.parametrize("option", [["--json"], ["--line"], ["--trace"], ["--watch", "5"]])
def test_the_page_excludes_other_reports(
    ticket: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    page = tmp_path / "page.html"
    status, out, err = run_stmgr(capsys, "relay-check", ticket, "--illustrate", page, *option)
    assert (status, out, len(err.splitlines())) == (2, "", 1)
    assert not page.exists()


@contextlib.contextmanager
def server_that_sends(data: bytes) -> Iterator[RelayTicket]:
    """Run a server that sends the same bytes to everyone."""
    with socket.create_server((LOCALHOST, 0)) as server, contextlib.ExitStack() as opened:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    sock = opened.enter_context(server.accept()[0])
                    sock.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield RelayTicket(bytes(range(32)), Address(LOCALHOST, server.getsockname()[1]))
        server.shutdown(socket.SHUT_RDWR)
        thread.join()


@pytest.mark.parametrize(
    "data",
    [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", encode_frame(bytes(4)), encode_frame(bytes(4)) * 2],
    ids=["silence", "http", "version only", "no message"],
)
def test_another_program_is_reported(data: bytes) -> None:
    with server_that_sends(data) as ticket, pytest.raises(RecordingFailed) as failed:
        Recorder(ticket, timeout=0.3).run()
    assert "\n" not in str(failed.value) and ticket.address.host in str(failed.value)


def test_an_unreachable_relay_is_reported_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    RelayTicket(bytes(range(32)), Address(LOCALHOST, free_port())).save(tmp_path / "away.relay")
    page = tmp_path / "page.html"
    status, out, err = run_stmgr(capsys, "relay-check", tmp_path / "away.relay", "--illustrate", page)
    assert (status, out, len(err.splitlines())) == (1, "", 1)
    assert "Connection refused" in err and not page.exists()


def test_a_connect_before_the_listen_is_tried_again(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    listen = InitConnection(InitRole.LISTEN).encode()
    send, close = recorder._Link.send, recorder._Link.close
    held: list[recorder._Link] = []

    def send_late(self: recorder._Link, message: bytes) -> None:
        if message == listen:
            held.append(self)
        else:
            send(self, message)

    def close_and_listen(self: recorder._Link) -> None:
        close(self)
        while held:
            send(held.pop(), listen)

    monkeypatch.setattr(recorder._Link, "send", send_late)
    monkeypatch.setattr(recorder._Link, "close", close_and_listen)
    assert len(tell(Recorder(relay.ticket, PATIENCE).run()).frames) == 35


def test_a_relay_that_never_stops_sending_is_reported(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recorder, "MAX_FRAMES", 10)
    with pytest.raises(RecordingFailed, match="more frames"):
        Recorder(relay.ticket, PATIENCE).run()
