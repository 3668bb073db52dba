"""The QR code of a ticket: what independent readers see in it is the ticket's JSON."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmgr
from tests.qr_readers import (
    READERS,
    enlarged,
    picture_of_blocks,
    picture_of_png,
    picture_of_svg,
    read_file_with_zbar,
    read_qr_code,
)
from tests.terminals import run_in_terminal

pytest.importorskip("segno", reason="needs the package segno")

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "vectors" / "files"
TICKET = FILES / "relay.relay"
JSON = TICKET.read_text()
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
MAKE = ["relay-ticket", "-i", str(FILES / "relay.ident"), "-a", "relay.example.com:1337", "-o"]

with_each_reader = pytest.mark.parametrize("reader", READERS)


def code_lines(output: str) -> str:
    """The lines of an output that are a QR code."""
    return "\n".join(line for line in output.splitlines() if "████" in line)


@with_each_reader
def test_the_code_in_the_output_is_the_ticket_where_light_is_drawn(reader, tmp_path, capsys):
    assert stmgr.main([*MAKE, str(tmp_path / "a.relay"), "--qr"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert not ESCAPES.search(out)
    picture = enlarged(picture_of_blocks(code_lines(out), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON == (tmp_path / "a.relay").read_text()


@with_each_reader
def test_the_code_on_a_terminal_is_the_ticket_whatever_the_colours_of_the_terminal(reader, tmp_path):
    status, output = run_in_terminal([sys.executable, ROOT / "stmgr.py", "show", TICKET, "--qr"])
    assert status == 0
    lines = [line for line in output.splitlines() if "████" in line]
    for line in lines:
        assert re.fullmatch(r"\x1b\[38;5;231;48;5;16m[ ▀▄█]+\x1b\[0m", line)  # white ink on black
    picture = enlarged(picture_of_blocks(ESCAPES.sub("", "\n".join(lines)), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON


def test_the_code_fits_into_80_columns_and_24_lines():
    status, output = run_in_terminal([sys.executable, ROOT / "stmgr.py", "show", TICKET, "--qr"], columns=80)
    lines = ESCAPES.sub("", code_lines(output)).splitlines()
    assert status == 0
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_a_code_that_is_wider_than_the_terminal_is_refused_with_what_to_do():
    status, output = run_in_terminal([sys.executable, ROOT / "stmgr.py", "show", TICKET, "--qr"], columns=40)
    assert status == 1
    assert "columns and the terminal has 40: widen it, or make a picture" in output
    assert "████" not in output


@with_each_reader
def test_the_code_in_a_png_is_the_ticket(reader, tmp_path):
    assert stmgr.main([*MAKE, str(tmp_path / "a.relay"), "--qr-output", str(tmp_path / "a.png")]) == 0
    picture = picture_of_png((tmp_path / "a.png").read_bytes())
    assert read_qr_code(reader, picture, tmp_path) == JSON


@pytest.mark.skipif(shutil.which("zbarimg") is None, reason="needs zbarimg, of the package zbar-tools")
def test_the_png_is_a_picture_that_another_program_opens(tmp_path):
    assert stmgr.main(["show", str(TICKET), "--qr-output", str(tmp_path / "a.PNG")]) == 0
    assert read_file_with_zbar(tmp_path / "a.PNG") == JSON


@with_each_reader
def test_the_code_in_an_svg_is_the_ticket(reader, tmp_path):
    assert stmgr.main(["show", str(TICKET), "--qr-output", str(tmp_path / "a.svg")]) == 0
    picture = enlarged(picture_of_svg((tmp_path / "a.svg").read_text("utf-8")))
    assert read_qr_code(reader, picture, tmp_path) == JSON


@with_each_reader
def test_the_code_of_a_ticket_with_other_spaces_is_the_ticket_as_it_is_made_here(reader, tmp_path, capsys):
    ticket = tmp_path / "a.relay"
    ticket.write_text(JSON.replace("\n", " ") + "\n")
    assert stmgr.main(["show", str(ticket), "--qr"]) == 0
    picture = enlarged(picture_of_blocks(code_lines(capsys.readouterr().out), ink_is_dark=False))
    assert read_qr_code(reader, picture, tmp_path) == JSON


@pytest.mark.parametrize("name", ["relay.ident", "app.ident", "node.rcard", "app.ticket", "node.db"])
@pytest.mark.parametrize("how", ["--qr", "--qr-output=a.png"])
def test_only_a_ticket_with_an_address_becomes_a_code(how, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert stmgr.main(["show", str(FILES / name), how]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.endswith("only a ticket with an address can be a QR code\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [["--qr"], ["--qr-output", "a.png"]])
def test_without_segno_one_line_says_what_to_install_and_nothing_is_made(how, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.chdir(tmp_path)
    assert stmgr.main([*MAKE, "a.relay", *how]) == 1
    assert capsys.readouterr() == (
        "",
        "stmgr: a QR code needs the package segno: pip install 'offset-relay[qr]', or pip install segno\n",
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [["show", str(TICKET)], [*MAKE, "a.relay"]])
def test_segno_is_not_needed_where_no_code_is_asked_for(command, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "segno", None)
    monkeypatch.chdir(tmp_path)
    assert stmgr.main(command) == 0


@pytest.mark.parametrize("name", ["a.jpg", "a", "png"])
def test_a_picture_of_another_ending_is_refused_and_nothing_is_made(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert stmgr.main([*MAKE, "a.relay", "--qr-output", name]) == 2
    assert capsys.readouterr() == ("", f"stmgr: {name}: a picture's name ends in .png or .svg\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_an_existing_picture_is_never_touched_and_no_ticket_is_made(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path(name).write_text("mine")
    assert stmgr.main([*MAKE, "a.relay", "--qr-output", name]) == 1
    line = f"stmgr: {name}: exists already, and no file is ever overwritten\n"
    assert capsys.readouterr() == ("", line)
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(name, "mine")]


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_a_picture_in_a_folder_that_is_missing_is_one_line_with_status_1(name, tmp_path, capsys):
    assert stmgr.main(["show", str(TICKET), "--qr-output", str(tmp_path / "none" / name)]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"stmgr: {tmp_path / 'none' / name}: ")
    assert err.count("\n") == 1


def test_an_output_without_block_characters_is_one_line_that_says_what_to_do():
    done = subprocess.run(
        [sys.executable, ROOT / "stmgr.py", "show", TICKET, "--qr"],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "stmgr: the output's encoding, ascii, has no block characters:"
        " make a picture instead, with --qr-output FILE.png\n"
    )
