"""QR codes: independent readers must find the ticket's JSON in every output format."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

import stmgr
from tests.commands import FILES, ROOT, run_script, run_stmgr
from tests.qr_readers import (
    READERS,
    enlarged,
    picture_of_blocks,
    picture_of_svg,
    read_file_with_zbar,
    read_qr_code,
)
from tests.terminals import run_in_terminal

pytest.importorskip("segno", reason="needs the package segno")

TICKET = FILES / "relay.relay"
JSON = TICKET.read_text()
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MAKE = ["relay-ticket", "-i", str(FILES / "relay.ident"), "-a", "relay.example.com:1337", "-o"]
SHOW = [sys.executable, ROOT / "stmgr.py", "show", TICKET, "--qr"]

with_each_reader = pytest.mark.parametrize("reader", READERS)


def code_lines(output: str) -> str:
    """Return the lines of an output that are part of a QR code."""
    return "\n".join(line for line in output.splitlines() if "████" in line)


@with_each_reader
def test_readers_find_the_ticket_in_plain_output(reader, tmp_path, capsys):
    status, out, err = run_stmgr(capsys, *MAKE, tmp_path / "a.relay", "--qr")
    assert (status, err) == (0, "")
    assert not ESCAPES.search(out)
    picture = enlarged(picture_of_blocks(code_lines(out), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON == (tmp_path / "a.relay").read_text()


@with_each_reader
def test_readers_find_the_ticket_on_a_terminal(reader, tmp_path):
    status, output = run_in_terminal(SHOW, columns=80)
    assert status == 0
    lines = code_lines(output).splitlines()
    for line in lines:
        assert re.fullmatch(r"\x1b\[38;5;231;48;5;16m[ ▀▄█]{,80}\x1b\[0m", line)  # white on black
    assert len(lines) <= 24
    picture = enlarged(picture_of_blocks(ESCAPES.sub("", "\n".join(lines)), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON


def test_a_terminal_that_is_too_narrow_is_reported():
    status, output = run_in_terminal(SHOW, columns=40)
    assert status == 1
    assert "columns but the terminal has 40; widen it, or make a picture" in output
    assert "████" not in output


@with_each_reader
def test_readers_find_the_ticket_in_an_svg(reader, tmp_path):
    path = tmp_path / "a.svg"
    assert stmgr.main([*MAKE, str(tmp_path / "a.relay"), "--qr-output", str(path)]) == 0
    picture = enlarged(picture_of_svg(path.read_text("utf-8")))
    assert read_qr_code(reader, picture, tmp_path) == JSON


@pytest.mark.skipif(shutil.which("zbarimg") is None, reason="needs zbarimg, of the package zbar-tools")
def test_zbar_finds_the_ticket_in_a_png(tmp_path):
    assert stmgr.main(["show", str(TICKET), "--qr-output", str(tmp_path / "a.PNG")]) == 0
    assert read_file_with_zbar(tmp_path / "a.PNG") == JSON


@with_each_reader
def test_the_json_in_the_code_is_normalized(reader, tmp_path, capsys):
    ticket = tmp_path / "a.relay"
    ticket.write_text(JSON.replace("\n", " ") + "\n")
    out = run_stmgr(capsys, "show", ticket, "--qr").out
    picture = enlarged(picture_of_blocks(code_lines(out), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON


@pytest.mark.parametrize("name", ["relay.ident", "node.rcard", "app.ticket"])
@pytest.mark.parametrize("option", ["--qr", "--qr-output=a.png"])
def test_a_file_without_an_address_has_no_code(option, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_stmgr(capsys, "show", FILES / name, option)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.endswith("choose a ticket with an address for a QR code\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--qr"], ["--qr-output", "a.png"]])
def test_without_segno_the_error_names_the_package(options, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.chdir(tmp_path)
    status, out, err = run_stmgr(capsys, *MAKE, "a.relay", *options)
    assert (status, out) == (1, "")
    assert err.startswith(
        "stmgr: a QR code needs the package segno; install it in the virtual environment of this program"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["show", str(TICKET)], [*MAKE, "a.relay"]])
def test_segno_is_only_needed_for_codes(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.chdir(tmp_path)
    assert stmgr.main(command) == 0


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_another_picture_format_is_rejected(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    line = f"stmgr: --qr-output: {name}: unknown picture format; use a name that ends in .png or .svg\n"
    assert run_stmgr(capsys, *MAKE, "a.relay", "--qr-output", name) == (2, "", line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_an_existing_picture_is_not_overwritten(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("mine")
    line = f"stmgr: {name}: the file already exists; choose another name or remove it first\n"
    assert run_stmgr(capsys, *MAKE, "a.relay", "--qr-output", name) == (1, "", line)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


def test_an_encoding_without_block_characters_is_reported():
    status, _, err = run_script("stmgr.py", "show", TICKET, "--qr", PYTHONIOENCODING="ascii")
    assert status == 1
    assert err.startswith("stmgr: the output encoding ascii has no block characters; make a picture with ")
