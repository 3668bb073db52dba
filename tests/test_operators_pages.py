"""Commands and configurations in docs/operations.md and docs/maintenance.md work."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from offset_common.policy.usage import UsageFile, Volume
from tests.commands import ROOT
from tests.documents import (
    BACKUP_COMMANDS,
    ROTATION_COMMANDS,
    SECOND_UNIT_COMMANDS,
    UNIT,
    blocks,
    environment,
    make_clone,
)
from tests.support.process import PATIENCE, LoggedProcess


def run(line: str, directory: Path) -> None:
    done = subprocess.run(
        line, shell=True, cwd=directory, env=environment(), capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_haproxy_accepts_the_configurations(tmp_path: Path) -> None:
    haproxy = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
    if haproxy is None:
        pytest.skip("needs Debian's haproxy")
    configurations = blocks("operations.md", "haproxy") + blocks("maintenance.md", "haproxy")
    assert len(configurations) == 2
    for text in configurations:
        (tmp_path / "haproxy.cfg").write_text(text)
        run(f"{haproxy} -c -f haproxy.cfg", tmp_path)


def test_nftables_accepts_the_firewall(tmp_path: Path) -> None:
    nft = shutil.which("nft") or shutil.which("nft", path="/usr/sbin")
    if nft is None or os.geteuid() != 0:
        pytest.skip("needs Debian's nftables, and root")
    (text,) = blocks("operations.md", "nft")
    (tmp_path / "nftables.conf").write_text(text)
    run(f"{nft} --check --file nftables.conf", tmp_path)


def test_systemd_accepts_the_drop_in(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    (text,) = blocks("operations.md", "ini")
    shutil.copy(UNIT, tmp_path)
    (tmp_path / f"{UNIT.name}.d").mkdir()
    (tmp_path / f"{UNIT.name}.d/override.conf").write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(tmp_path / UNIT.name)],
        env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_identity_can_be_rotated_as_documented(tmp_path: Path) -> None:
    make_clone(tmp_path)
    assert len(ROTATION_COMMANDS) == 4
    create, ticket, start, check = ROTATION_COMMANDS
    run(create, tmp_path)
    words = shlex.split(start.replace("0.0.0.0:4568", "127.0.0.1:0"))
    relay = LoggedProcess([sys.executable, *words[1:]], tmp_path)
    try:
        (address,) = re.findall(r"address=(\S+)", relay.wait_for_line("^relay ready"))
        run(ticket.replace("relay.example.com:4568", address), tmp_path)
        run(check, tmp_path)
        assert relay.stop() == 0
    finally:
        relay.kill()


def test_second_unit_has_its_own_port_and_identity(tmp_path: Path) -> None:
    for directory in ("etc/offset-relay", "etc/systemd/system"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "relay-new.ident").touch()
    shutil.copy(UNIT, tmp_path / "etc/systemd/system")
    assert len(SECOND_UNIT_COMMANDS) == 5
    for line in SECOND_UNIT_COMMANDS[:2]:
        run(line.replace("/etc/", f"{tmp_path}/etc/"), tmp_path)
    text = (tmp_path / "etc/systemd/system/offset-relay-new.service").read_text()
    assert "--laddr 0.0.0.0:4568" in text and "4567" not in text
    assert "LoadCredential=relay.ident:/etc/offset-relay/relay-new.ident\n" in text
    assert (tmp_path / "etc/offset-relay/relay-new.ident").exists()


def test_second_unit_of_the_package_has_its_own_files(tmp_path: Path) -> None:
    units = tmp_path / "lib/systemd/system"
    for directory in ("etc/offset-relay", "etc/systemd/system", "var/lib/offset-relay", "lib/systemd/system"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "relay-new.ident").touch()
    shutil.copy(ROOT / "debian/relay.toml", tmp_path / "etc/offset-relay")
    run(f"sed -f {ROOT}/debian/unit.sed {UNIT} > {units}/offset-relay.service", tmp_path)
    for line in SECOND_UNIT_COMMANDS[2:]:
        run(re.sub(r" /(etc|lib|var)/", rf" {tmp_path}/\1/", line), tmp_path)
    text = (tmp_path / "etc/systemd/system/offset-relay-new.service").read_text()
    assert "--config /etc/offset-relay/relay-new.toml " in text
    assert "LoadCredential=relay.ident:/var/lib/offset-relay/relay-new.ident\n" in text
    assert "StateDirectory=offset-relay-new/usage\n" in text
    assert (tmp_path / "var/lib/offset-relay/relay-new.ident").exists()
    options = (tmp_path / "etc/offset-relay/relay-new.toml").read_text()
    assert 'laddr = "0.0.0.0:4568"\n' in options
    assert 'usage = "/var/lib/offset-relay-new/usage/usage.db"\n' in options


@pytest.mark.parametrize("line", BACKUP_COMMANDS)
def test_usage_file_in_use_can_be_copied(line: str, tmp_path: Path) -> None:
    if shutil.which(line.split()[0]) is None:
        pytest.skip(f"needs {line.split()[0]}")
    file = UsageFile(str(tmp_path / "usage.db"))
    file.load("2026-11")
    file.add("2026-11", {b"k" * 32: Volume(1, 2)})
    in_use = sqlite3.connect(tmp_path / "usage.db", isolation_level=None)
    in_use.execute("BEGIN IMMEDIATE")
    in_use.execute("DELETE FROM usage")
    run(line, tmp_path)
    assert UsageFile(str(tmp_path / "usage-backup.db")).load("2026-11") == {b"k" * 32: Volume(1, 2)}
    in_use.close()
