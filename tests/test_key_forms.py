"""Both forms of private keys: read everywhere, checked, named by show, written to new files."""

from __future__ import annotations

import base64
import json
import stat
from pathlib import Path

import pytest

from offset_common.identity import KeyForm, load_identity
from offset_common.tickets import NodeEntry
from tests.commands import FILES, run_stmgr

# Test 1 of RFC 8032, section 7.1, and the parts of a PKCS#8 key around it: docs/protocol.md, section 8.
SEED = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60"
PUBLIC_KEY = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
OTHER_PUBLIC_KEY = "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c"
BEFORE_SEED, BEFORE_PUBLIC_KEY = "3053020101300506032b657004220420", "a123032100"

FORM_LINES = {
    KeyForm.SEED: "  key form        a 32-byte seed, for release 0.1.11",
    KeyForm.PKCS8: "  key form        PKCS#8, for releases up to 0.1.10",
}
FORM_OPTIONS = {KeyForm.SEED: [], KeyForm.PKCS8: ["--pkcs8"]}
each_form = pytest.mark.parametrize("form", KeyForm)


def text_of(*parts: str) -> str:
    return base64.urlsafe_b64encode(bytes.fromhex("".join(parts))).rstrip(b"=").decode()


PKCS8_TEXT = text_of(BEFORE_SEED, SEED, BEFORE_PUBLIC_KEY, PUBLIC_KEY)
TEXTS = {KeyForm.SEED: text_of(SEED), KeyForm.PKCS8: PKCS8_TEXT}


def write_identity(directory: Path, key: str) -> Path:
    path = directory / "my.ident"
    path.write_text(json.dumps({"privateKey": key}))
    path.chmod(0o600)
    return path


def write_entry(directory: Path, key: str) -> Path:
    path = directory / "my.rcard"
    values = json.loads((FILES / "node.rcard").read_text())
    path.write_text(json.dumps({**values, "appPrivateKey": key}, indent=2))
    path.chmod(0o600)
    return path


@each_form
def test_an_identity_is_read_in_either_form(form, tmp_path):
    identity = load_identity(write_identity(tmp_path, TEXTS[form]))
    assert identity.seed.hex() == SEED
    assert identity.public_key.hex() == PUBLIC_KEY


@each_form
def test_a_node_entry_keeps_the_form_of_its_key(form, tmp_path):
    path = write_entry(tmp_path, TEXTS[form])
    entry = NodeEntry.load(path)
    assert entry.app_private_key.hex() == SEED
    assert entry.to_json() == path.read_text()


@each_form
@pytest.mark.parametrize("write", [write_identity, write_entry])
def test_show_names_the_form(write, form, tmp_path, capsys):
    status, out, _ = run_stmgr(capsys, "show", write(tmp_path, TEXTS[form]))
    assert status == 0
    assert FORM_LINES[form] in out.splitlines()
    assert TEXTS[form][:12] not in out


@each_form
def test_gen_ident_writes_either_form(form, tmp_path, capsys):
    path = tmp_path / "a"
    assert run_stmgr(capsys, "gen-ident", "-o", path, *FORM_OPTIONS[form]) == (0, "", "")
    assert len(json.loads(path.read_text())["privateKey"]) == len(TEXTS[form])
    assert load_identity(path)


@each_form
def test_node_entry_writes_either_form(form, tmp_path, capsys):
    app = write_identity(tmp_path, TEXTS[form])
    line = ["-n", FILES / "relay.ident", "-p", app, "-a", "h:1", "-o", tmp_path / "a"]
    for wanted in KeyForm:
        (tmp_path / "a").unlink(missing_ok=True)
        assert run_stmgr(capsys, "node-entry", *line, *FORM_OPTIONS[wanted]) == (0, "", "")
        assert json.loads((tmp_path / "a").read_text())["appPrivateKey"] == TEXTS[wanted]


@each_form
@pytest.mark.parametrize("write", [write_identity, write_entry])
def test_convert_key_changes_nothing_but_the_form(write, form, tmp_path, capsys):
    for found in KeyForm:
        source, target = write(tmp_path, TEXTS[found]), tmp_path / f"{found.name}.new"
        assert run_stmgr(capsys, "convert-key", source, "-o", target, *FORM_OPTIONS[form]) == (0, "", "")
        before, after = json.loads(source.read_text()), json.loads(target.read_text())
        assert after == {**before, list(before)[-1]: TEXTS[form]}
        assert stat.S_IMODE(target.stat().st_mode) == 0o600


def test_convert_key_overwrites_nothing(tmp_path, capsys):
    path = write_identity(tmp_path, PKCS8_TEXT)
    assert run_stmgr(capsys, "convert-key", path, "-o", path).status == 1
    assert PKCS8_TEXT in path.read_text()


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ((BEFORE_SEED, SEED, BEFORE_PUBLIC_KEY, OTHER_PUBLIC_KEY), "its two halves do not belong together"),
        ((BEFORE_SEED, PUBLIC_KEY, BEFORE_PUBLIC_KEY, SEED), "its two halves do not belong together"),
        (("31" + BEFORE_SEED[2:], SEED, BEFORE_PUBLIC_KEY, PUBLIC_KEY), "of a PKCS#8 key but is not one"),
        ((BEFORE_SEED, SEED, "8123032100", PUBLIC_KEY), "of a PKCS#8 key but is not one"),
        ((BEFORE_SEED, SEED, BEFORE_PUBLIC_KEY, PUBLIC_KEY[2:]), "has 112 characters"),
    ],
)
@pytest.mark.parametrize(("write", "name"), [(write_identity, "privateKey"), (write_entry, "appPrivateKey")])
def test_a_damaged_key_is_explained_but_not_shown(write, name, parts, reason, tmp_path, capsys):
    text = text_of(*parts)
    path = write(tmp_path, text)
    status, out, err = run_stmgr(capsys, "show", path)
    assert (status, out) == (1, "")
    assert err.startswith(f'stmgr: {path}: "{name}" ')
    assert reason in err
    assert text[25:45] not in err
