"""show: what is in a file, and never a private key."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import stmgr

ROOT = Path(__file__).parent.parent
FILES = Path(__file__).parent / "vectors" / "files"
RELAY_KEY = json.loads((FILES / "relay.relay").read_text())["publicKey"]
APP_KEY = json.loads((FILES / "app.ticket").read_text())["publicKey"]

SHOWN = {
    "relay.ident": ("an identity", {"public key": RELAY_KEY}),
    "app.ident": ("an identity", {"public key": APP_KEY}),
    "relay.relay": ("a relay ticket", {"public key": RELAY_KEY, "address": "relay.example.com:1337"}),
    "index.index": ("an index server's ticket", {"public key": RELAY_KEY, "address": "[2001:db8::1]:1337"}),
    "node.ticket": ("a node ticket", {"public key": RELAY_KEY, "address": "127.0.0.1:8900"}),
    "app.ticket": ("an app ticket", {"public key": APP_KEY, "permissions": "buyer, seller"}),
    "node.rcard": (
        "a node entry: all that one app needs to use a node",
        {"node's key": RELAY_KEY, "node's address": "127.0.0.1:8900", "app's key": APP_KEY},
    ),
    "node.db": ("the database of a node that has not run yet", {"public key": RELAY_KEY}),
}
"""What there is to say about each file of the original; the public keys are those of its own tickets."""


def show(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert stmgr.main(["show", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines: list[str] = out.splitlines()
    return lines


@pytest.mark.parametrize("name", SHOWN)
def test_each_file_of_the_original_is_told_by_its_kind_its_keys_and_what_else_is_in_it(
    name, tmp_path, capsys
):
    path = tmp_path / name
    shutil.copy(FILES / name, path)
    path.chmod(0o600)
    kind, facts = SHOWN[name]
    first, *others = show(path, capsys)
    assert first == f"{path}: {kind}"
    assert others[: len(facts)] == [f"  {label:<14}  {value}" for label, value in facts.items()]
    private = "rivateKey" in path.read_text()
    assert len(others) == len(facts) + private


@pytest.mark.parametrize("name", SHOWN)
def test_a_private_key_is_never_shown(name, capsys):
    out = "\n".join(show(FILES / name, capsys))
    for key in re.findall(r'rivateKey": "([^"]+)"', (FILES / name).read_text()):
        assert key not in out
        assert key[:12] not in out


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o644, True)])
def test_a_private_key_that_others_can_read_is_warned_of(mode, warned, tmp_path, capsys):
    path = tmp_path / "my.ident"
    shutil.copy(FILES / "relay.ident", path)
    path.chmod(mode)
    assert (f"chmod 600 {path}" in show(path, capsys)[-1]) is warned


@pytest.mark.parametrize("ending", ["", ".json", ".relay.bak"])
def test_a_ticket_whose_ending_does_not_tell_is_said_to_be_any_of_three(ending, tmp_path, capsys):
    path = tmp_path / f"ticket{ending}"
    shutil.copy(FILES / "relay.relay", path)
    kind = show(path, capsys)[0]
    assert all(word in kind for word in ("relay", "index server", "node"))


@pytest.mark.parametrize(
    ("flags", "shown"),
    [([], "none: it may only look on"), (["--proutes", "--pconfig"], "routes, config")],
)
def test_the_permissions_of_an_app_are_named(flags, shown, tmp_path, capsys):
    path = tmp_path / "a.ticket"
    assert stmgr.main(["app-ticket", "-i", str(FILES / "app.ident"), "-o", str(path), *flags]) == 0
    assert f"  permissions     {shown}" in show(path, capsys)


def test_the_database_of_a_node_that_has_run_is_told_with_its_key(tmp_path, capsys):
    database = json.loads((FILES / "node.db").read_text())
    database["funder_state"]["relays"] = [{"name": "mine"}]
    path = tmp_path / "node.db"
    path.write_text(json.dumps(database))
    first, key = show(path, capsys)
    assert first == f"{path}: the database of a node"
    assert RELAY_KEY in key


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{}", "is no file of Offset: it has none of the fields that would tell its kind"),
        ('{"publicKey": "A"}', "is no file of Offset: it has none of the fields that would tell its kind"),
        ("hello", "is not JSON: Expecting value: line 1 column 1 (char 0)"),
        ('{"address": "h:1"}', 'has no "publicKey"'),
        ('{"privateKey": "AAAA"}', '"privateKey" has 4 characters, not the 43 of a 32-byte key'),
    ],
)
def test_what_is_no_file_of_offset_is_one_line_with_status_1(content, reason, tmp_path, capsys):
    path = tmp_path / "a"
    path.write_text(content)
    assert stmgr.main(["show", str(path)]) == 1
    assert capsys.readouterr() == ("", f"stmgr: {path}: {reason}\n")


def test_a_file_that_is_not_there_is_one_line_with_status_1(tmp_path, capsys):
    assert stmgr.main(["show", str(tmp_path / "a")]) == 1
    assert capsys.readouterr() == ("", f"stmgr: {tmp_path / 'a'}: No such file or directory\n")


def test_the_name_of_a_file_cannot_steer_the_terminal(tmp_path, capsys):
    path = tmp_path / "a\n\x1b[31m.relay"
    shutil.copy(FILES / "relay.relay", path)
    first = show(path, capsys)[0]
    assert first == f"{tmp_path}/a\\n\\x1b[31m.relay: a relay ticket"


def test_a_name_that_the_output_has_no_letters_for_is_no_traceback(tmp_path):
    path = tmp_path / "ä.relay"
    shutil.copy(FILES / "relay.relay", path)
    done = subprocess.run(
        [sys.executable, ROOT / "stmgr.py", "show", path],
        env={"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=True,
    )
    assert b"\\xe4.relay: a relay ticket\n" in done.stdout
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("show", "<file> is missing"),
        ("show a b", "nothing is expected to be 'b'"),
        ("shwo a", "there is no command 'shwo'; did you mean show?"),
        ("show a --qrr", "unknown option --qrr; did you mean --qr?"),
        ("show a --qr-output", "--qr-output requires argument"),
    ],
)
def test_a_wrong_command_line_is_told_why_with_status_2(line, reason, capsys):
    assert stmgr.main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err.splitlines()[0]) == ("", f"stmgr: {reason}")
