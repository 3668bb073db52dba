"""Advice about file modes: it fits the owner of the file, and never stops a service."""

from __future__ import annotations

import os
import shutil
import stat
import struct

import pytest

from offset_common.file_access import exposure, refusal
from tests.commands import FILES, run_stmgr

OTHER_USER = os.geteuid() + 1


@pytest.fixture
def path(tmp_path):
    shutil.copy(FILES / "relay.ident", tmp_path / "my.ident")
    return tmp_path / "my.ident"


def run_as_other_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: OTHER_USER)


def give_acl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getxattr", lambda _path, _name: b"\x02\0\0\0", raising=False)


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o700])
def test_a_private_file_causes_no_warning(mode, path):
    path.chmod(mode)
    assert exposure(path) is None


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o604, 0o644])
def test_the_owner_is_advised_to_chmod(mode, path):
    path.chmod(mode)
    assert str(exposure(path)) == f"other users can read the private key; run chmod 600 {path}"


def test_the_advice_can_be_pasted(tmp_path):
    path = tmp_path / "my ident's"
    path.write_text("x")
    path.chmod(0o644)
    advice = exposure(path)
    assert advice is not None
    assert os.system(advice.advice.partition("run ")[2]) == 0
    assert exposure(path) is None


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o640])
def test_a_service_may_read_by_group_or_acl(mode, path, monkeypatch):
    # systemd credentials: owner root, mode 0440 and an ACL; Kubernetes with fsGroup: owner root, mode 0440
    path.chmod(mode)
    run_as_other_user(monkeypatch)
    assert exposure(path) is None


def test_only_the_owner_is_told_to_chmod(path, monkeypatch):
    path.chmod(0o444)
    run_as_other_user(monkeypatch)
    assert (
        str(exposure(path)) == "every user can read the private key; ask the owner of the file to change that"
    )


def test_the_mask_of_an_acl_is_not_taken_for_the_group(path, monkeypatch):
    path.chmod(0o640)
    give_acl(monkeypatch)
    assert exposure(path) is None


def test_the_owner_of_a_file_with_an_acl_keeps_the_acl(path, monkeypatch):
    path.chmod(0o644)
    give_acl(monkeypatch)
    assert str(exposure(path)) == f"every user can read the private key; run chmod o-r {path}"


def test_a_missing_file_or_system_without_owners_is_silent(path, monkeypatch):
    assert exposure(path.parent / "missing") is None
    path.chmod(0o644)
    monkeypatch.delattr(os, "geteuid")
    assert exposure(path) is None


def test_show_has_one_warning_that_fits(path, capsys, monkeypatch):
    path.chmod(0o644)
    line = f"  Warning: other users can read the private key; run chmod 600 {path}"
    assert [text for text in run_stmgr(capsys, "show", path).out.splitlines() if "Warning:" in text] == [line]
    run_as_other_user(monkeypatch)
    assert "chmod" not in run_stmgr(capsys, "show", path).out


def test_a_refused_owner_is_told_how_to_allow_it(path):
    assert refusal(path) == f"you own {path}; allow it with chmod u+rwX"


def test_a_refused_user_is_not_told_to_chmod(path, monkeypatch):
    run_as_other_user(monkeypatch)
    assert refusal(path) == "run as a user who has access, or ask the owner for it"


def test_the_directory_of_a_new_file_is_what_is_refused(tmp_path):
    assert refusal(tmp_path / "new") == f"you own {tmp_path}; allow it with chmod u+rwX"


def test_a_real_acl_is_found(path):
    # The owner may read and write, one user may read, the group and others nothing; the mask is "read".
    entries = [
        (1, 6, 2**32 - 1),
        (2, 4, OTHER_USER),
        (4, 0, 2**32 - 1),
        (16, 4, 2**32 - 1),
        (32, 0, 2**32 - 1),
    ]
    acl = struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)
    try:
        os.setxattr(path, "system.posix_acl_access", acl)
    except (AttributeError, OSError):
        pytest.skip("the file system has no ACLs")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert exposure(path) is None
