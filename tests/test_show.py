"""stmgr show: the content of each kind of file, and never a private key."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

import stmgr
from tests.commands import FILES, run_script, run_stmgr

RELAY_KEY = json.loads((FILES / "relay.relay").read_text())["publicKey"]
APP_KEY = json.loads((FILES / "app.ticket").read_text())["publicKey"]
SEED_FORM = "a 32-byte seed, for release 0.1.11"

SHOWN = {
    "relay.ident": ("an identity", {"public key": RELAY_KEY, "key form": SEED_FORM}),
    "app.ident": ("an identity", {"public key": APP_KEY, "key form": SEED_FORM}),
    "relay.relay": ("a relay ticket", {"public key": RELAY_KEY, "address": "relay.example.com:1337"}),
    "index.index": ("an index server's ticket", {"public key": RELAY_KEY, "address": "[2001:db8::1]:1337"}),
    "node.ticket": ("a node ticket", {"public key": RELAY_KEY, "address": "127.0.0.1:8900"}),
    "app.ticket": ("an app ticket", {"public key": APP_KEY, "permissions": "buyer, seller"}),
    "node.rcard": (
        "a node entry, with which an app can use a node",
        {
            "node's key": RELAY_KEY,
            "node's address": "127.0.0.1:8900",
            "app's key": APP_KEY,
            "key form": SEED_FORM,
        },
    ),
    "node.db": ("the database of a node that has not run yet", {"public key": RELAY_KEY}),
}
"""What is shown for each file of the original. The public keys come from its tickets."""


def show(path: Path, capsys: pytest.CaptureFixture[str]) -> list[str]:
    status, out, err = run_stmgr(capsys, "show", path)
    assert (status, err) == (0, "")
    lines: list[str] = out.splitlines()
    return lines


@pytest.mark.parametrize("name", SHOWN)
def test_each_file_is_shown_with_its_kind_and_keys(name, tmp_path, capsys):
    path = tmp_path / name
    shutil.copy(FILES / name, path)
    path.chmod(0o600)
    kind, facts = SHOWN[name]
    first, *others = show(path, capsys)
    assert first == f"{path}: {kind}"
    assert others[: len(facts)] == [f"  {label:<14}  {value}" for label, value in facts.items()]
    private_keys = re.findall(r'rivateKey": "([^"]+)"', path.read_text())
    assert len(others) == len(facts) + len(private_keys)
    for key in private_keys:
        assert key[:12] not in "\n".join(others)


@pytest.mark.parametrize("extension", ["", ".json", ".relay.bak"])
def test_an_unknown_extension_leaves_the_kind_open(extension, tmp_path, capsys):
    path = tmp_path / f"ticket{extension}"
    shutil.copy(FILES / "relay.relay", path)
    kind = show(path, capsys)[0]
    assert all(word in kind for word in ("relay", "index server", "node"))


@pytest.mark.parametrize(
    ("flags", "shown"), [([], "none (read-only)"), (["--proutes", "--pconfig"], "routes, config")]
)
def test_the_permissions_of_an_app_are_listed(flags, shown, tmp_path, capsys):
    path = tmp_path / "a.ticket"
    assert stmgr.main(["app-ticket", "-i", str(FILES / "app.ident"), "-o", str(path), *flags]) == 0
    assert f"  permissions     {shown}" in show(path, capsys)


def test_a_used_database_is_shown_with_its_key(tmp_path, capsys):
    database = json.loads((FILES / "node.db").read_text())
    database["funder_state"]["relays"] = [{"name": "mine"}]
    path = tmp_path / "node.db"
    path.write_text(json.dumps(database))
    first, key = show(path, capsys)
    assert first == f"{path}: the database of a node"
    assert RELAY_KEY in key


@pytest.mark.parametrize("content", ["{}", '{"publicKey": "A"}'])
def test_a_file_without_known_fields_is_rejected(content, tmp_path, capsys):
    path = tmp_path / "a"
    path.write_text(content)
    line = f"stmgr: {path}: not an Offset file: it has none of the known fields; check its name\n"
    assert run_stmgr(capsys, "show", path) == (1, "", line)


def test_unprintable_file_names_are_escaped(tmp_path, capsys):
    path = tmp_path / "a\n\x1b[31m.relay"
    shutil.copy(FILES / "relay.relay", path)
    assert show(path, capsys)[0] == f"{tmp_path}/a\\n\\x1b[31m.relay: a relay ticket"


def test_names_outside_the_output_encoding_are_escaped(tmp_path):
    path = tmp_path / "ä.relay"
    shutil.copy(FILES / "relay.relay", path)
    status, out, err = run_script("stmgr.py", "show", path, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert "\\xe4.relay: a relay ticket\n" in out
