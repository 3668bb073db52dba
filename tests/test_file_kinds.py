"""Files of the wrong kind: the message says what the file is and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.commands import FILES, run_stmgr

TICKET = (FILES / "relay.relay").read_bytes()
KEY = json.loads(TICKET)["publicKey"]

CANNOT_READ = {
    "a directory": (None, "this is a directory; give the name of a file in it"),
    "empty": (b"", "the file is empty; copy the file again, or make a new one"),
    "only a byte order mark": (b"\xef\xbb\xbf", "the file is empty; copy the file again, or make a new one"),
    "a TOML identity": (b"private_key = 'AAAA'\n", "a TOML identity of a release up to 0.1.2"),
    "a TOML ticket": (b'public_key = "A"\naddress = "h:1"\n', "a TOML ticket of a release up to 0.1.2"),
    "a TOML app ticket": (
        b'public_key = "A"\n\n[permissions]\nroutes = true\n',
        "a TOML ticket of a release up to 0.1.2",
    ),
    "UTF-16": (TICKET.decode().encode("utf-16"), "in UTF-16 or UTF-32 encoding; save it as UTF-8"),
    "UTF-16, no mark": (
        TICKET.decode().encode("utf-16-le"),
        "in UTF-16 or UTF-32 encoding; save it as UTF-8",
    ),
    "big-endian UTF-16": (TICKET.decode().encode("utf-16-be"), "in UTF-16 or UTF-32 encoding; save it"),
    "UTF-32": (TICKET.decode().encode("utf-32-be"), "in UTF-16 or UTF-32 encoding; save it as UTF-8"),
    "Latin-1": ('{"address": "bücher"}'.encode("latin-1"), "not UTF-8 text (byte 14); save it as UTF-8"),
    "a PNG picture": (b"\x89PNG\r\n\x1a\n\0\0", "a picture; give the ticket file, or scan"),
    "an SVG picture": (b"<?xml version='1.0'?>\n<svg/>", "a picture; give the ticket file, or scan"),
    "a large picture": (b"\x89PNG" + bytes(100_000), "a picture; give the ticket file, or scan"),
    "a zip archive": (b"PK\x03\x04\x14\0", "an archive or compressed; unpack it first"),
    "a web page": (b"\n<!DOCTYPE html><title>x", "a web page; download the file itself"),
    "a PEM key": (b"-----BEGIN PRIVATE KEY-----\nMC4", "in PEM form, which Offset does not use"),
    "a bare PKCS#8 key": (bytes.fromhex("3053020101300506032b657004220420") + bytes(69), "a bare PKCS#8 key"),
    "a program": (b"\x7fELF\x02\x01\x01\0\0", "binary, not an Offset file; check its name"),
    "an invoice": (b'{"invoiceId": "A", "currency": "FST"}', "an invoice of the mobile app"),
    "a commitment": (b'{"responseHash": "A", "invoiceId": "A"}', "a payment commitment of the mobile app"),
    "a friend card": (f'{{"publicKey": "{KEY}", "relays": []}}'.encode(), "a friend card of the mobile app"),
}
COMMANDS = {
    "an identity": "app-ticket -o output -i",
    "a ticket": "relay-check --json",
    "anything": "show",
    "a key": "convert-key -o output",
}


@pytest.mark.parametrize("kind", CANNOT_READ)
@pytest.mark.parametrize("wanted", COMMANDS)
def test_a_file_that_cannot_be_read_is_reported(wanted, kind, tmp_path, monkeypatch, capsys):
    content, reason = CANNOT_READ[kind]
    monkeypatch.chdir(tmp_path)
    path = Path("given")
    path.mkdir() if content is None else path.write_bytes(content)
    status, out, err = run_stmgr(capsys, *COMMANDS[wanted].split(), path)
    assert (status, out) == (1, "")
    assert err.startswith("stmgr: given: ")
    assert reason in err
    assert err.count("\n") == 1
    assert "; " in err  # what to do
    assert not Path("output").exists()


SWAPPED = [
    ("app-ticket -o output -i", "relay.relay", "a ticket of a relay, index server or node, not an identity"),
    ("app-ticket -o output -i", "app.ticket", "an app ticket, not an identity; give the .ident file"),
    ("app-ticket -o output -i", "node.rcard", "a node entry, not an identity; give the .ident file"),
    ("app-ticket -o output -i", "node.db", "the database of a node, not an identity; give the .ident file"),
    (
        "relay-check",
        "relay.ident",
        "an identity, not a ticket of a relay, index server or node; make its ticket",
    ),
    (
        "relay-check",
        "app.ticket",
        "an app ticket, not a ticket of a relay, index server or node; give the .relay",
    ),
    (
        "relay-check",
        "node.rcard",
        "a node entry, not a ticket of a relay, index server or node; give the .relay",
    ),
]


@pytest.mark.parametrize(("line", "name", "reason"), SWAPPED)
def test_a_swapped_file_is_reported(line, name, reason, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    status, out, err = run_stmgr(capsys, *line.split(), FILES / name)
    assert (status, out) == (1, "")
    assert f"{name}: the file is {reason}" in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_key_of_a_toml_identity_can_be_moved_to_json(tmp_path, capsys):
    """The advice works: the key of a TOML identity, written as JSON, is an identity."""
    (tmp_path / "old").write_text("private_key = 'KEY'")
    advice = run_stmgr(capsys, "show", tmp_path / "old").err
    assert '{"privateKey": "..."}' in advice
    run_stmgr(capsys, "gen-ident", "--pkcs8", "-o", tmp_path / "a")
    key = json.loads((tmp_path / "a").read_text())["privateKey"]
    (tmp_path / "b").write_text('{"privateKey": "..."}'.replace("...", key))
    assert run_stmgr(capsys, "show", tmp_path / "b").status == 0
