"""`make run`: the ticket is for where the relay listens, and the explanation of who can reach it is true."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from offset_common.address import Address, parse_listen_address
from offset_common.errors import UsageError
from offset_common.tickets import RelayTicket
from tests.commands import run_python
from tests.documents import environment, make_clone
from tests.support.process import PATIENCE, ROOT, free_port, ready_relay
from tools.run import address_to_reach, next_steps


def run(directory: Path, **variables: str) -> str:
    """Run `make run` until the relay is ready; return what it prints."""
    command = [sys.executable, "tools/run.py"]
    environment_of_run = {**environment(), "ADDRESS": "", "LADDR": "", **variables}
    with ready_relay(command, directory, environment_of_run) as (_, process):
        process.send_signal(signal.SIGTERM)
        assert process.stdout is not None
        return process.stdout.read()


def test_ticket_has_the_port_that_is_listened_on(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    printed = run(make_clone(tmp_path), LADDR=address)
    assert str(RelayTicket.load(tmp_path / "relay/relay.relay").address) == address
    assert f"Only programs on this machine can reach {address}." in printed
    assert "local network" not in printed
    assert f"make run ADDRESS=relay.example.com:{address.partition(':')[2]}\n" in printed


@pytest.mark.parametrize("laddr", ["127.0.0.1:4571", "[::1]:4571", "192.168.1.10:4571", "localhost:4571"])
def test_specific_address_is_the_one_in_the_ticket(laddr: str) -> None:
    assert str(address_to_reach(parse_listen_address(laddr))) == laddr


@pytest.mark.parametrize("laddr", ["0.0.0.0:4571", "[::]:4571"])
def test_wildcard_gives_an_own_address_with_its_port(laddr: str) -> None:
    address = address_to_reach(parse_listen_address(laddr))
    assert address.port == 4571
    assert address.host not in ("0.0.0.0", "::")


@pytest.mark.parametrize("laddr", ["0.0.0.0:0", "[::]:0", "127.0.0.1:0", "[fe80::1%lo]:4571"])
def test_address_that_no_ticket_can_have_is_refused(laddr: str) -> None:
    with pytest.raises(UsageError):
        address_to_reach(parse_listen_address(laddr))


@pytest.mark.parametrize(
    ("ticket", "listen", "expected"),
    [
        (Address("127.0.0.1", 4567), Address("0.0.0.0", 4567), "Only programs on this machine"),
        (Address("::1", 4567), Address("::", 4567), "Only programs on this machine"),
        (Address("localhost", 4567), Address("localhost", 4567), "Only programs on this machine"),
        (Address("10.1.2.3", 4567), Address("0.0.0.0", 4567), "perhaps its local network"),
        (Address("relay.example.com", 4567), Address("127.0.0.1", 4567), "forwards their connections"),
        (Address("relay.example.com", 443), Address("0.0.0.0", 4567), "forwards their connections"),
        (Address("relay.example.com", 4567), Address("0.0.0.0", 4567), None),
    ],
    ids=str,
)
def test_reach_is_explained_truthfully(ticket: Address, listen: Address, expected: str) -> None:
    sentences = ["Only programs on this machine", "perhaps its local network", "forwards their connections"]
    text = "\n".join(next_steps(ticket, listen))
    assert [sentence for sentence in sentences if sentence in text] == ([expected] if expected else [])


def test_file_in_the_place_of_the_directory_is_explained(tmp_path: Path) -> None:
    clone = make_clone(tmp_path)
    (clone / "relay").touch()
    status, out, err = run_python("tools/run.py", directory=clone, environment=environment())
    assert (status, out) == (1, "")
    assert err.startswith("make run: relay: this is a file; move it away")


@pytest.mark.parametrize("variable", ["ADDRESS=relay", "LADDR=4567"])
def test_addresses_are_checked_before_an_environment_is_made(variable: str, tmp_path: Path) -> None:
    done = make_without("*venv*", tmp_path, "run", variable)
    assert done.returncode != 0
    name = variable.partition("=")[0]
    error = rf"^make run: {name}: the address .* (has no port|is only a port)"
    assert re.search(error, done.stderr, re.MULTILINE)
    assert not (tmp_path / "venv").exists()


def make_without(
    missing: str, directory: Path, target: str, *variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a target of the Makefile with a Python whose command lines may not match shell patterns."""
    python = directory / "python-on-a-small-host"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in {missing}) echo "not here" >&2; exit 1;; esac\n'
        f'exec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    arguments = [f"PYTHON={python}", f"VENV={directory / 'venv'}"]
    return subprocess.run(
        ["make", "-C", str(ROOT), target, *arguments, *variables],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def test_missing_venv_says_what_to_install(tmp_path: Path) -> None:
    done = make_without("*ensurepip*", tmp_path, "test")
    assert done.returncode != 0
    assert "apt-get install python3-venv" in done.stdout + done.stderr
    assert not (tmp_path / "venv/bin").exists()


@pytest.mark.parametrize("target", ["run", "check"])
def test_python_that_cannot_run_the_programs_is_reported(tmp_path: Path, target: str) -> None:
    done = subprocess.run(
        ["make", "-C", str(ROOT), target, f"PYTHON={sys.executable}", f"VENV={tmp_path / 'venv'}"],
        env={**environment(), "PYTHONOPTIMIZE": "2"},  # python_problem reports this like an old version
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.stderr.startswith("with -OO or PYTHONOPTIMIZE=2, ")
    assert not (tmp_path / "venv").exists()


def make_without_index(venv: Path, **variables: str) -> str:
    """Begin to create an environment, which cannot be finished without an index; return the errors."""
    done = subprocess.run(
        ["make", "-C", str(ROOT), "check", f"PYTHON={sys.executable}", f"VENV={venv}"],
        env={**environment(), "PIP_NO_INDEX": "1", **variables},
        capture_output=True,
        text=True,
        timeout=4 * PATIENCE,  # with pip, an environment takes some seconds on an idle machine
    )
    assert done.returncode != 0
    return done.stderr


def test_environment_without_its_python_is_recreated(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to("/python-of-an-old-release")
    assert "No matching distribution" in make_without_index(tmp_path)
    assert (tmp_path / "bin/python").exists()


def test_environment_that_a_user_made_is_kept(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True, timeout=PATIENCE)
    (tmp_path / "bin/program").touch()
    assert "No matching distribution" in make_without_index(tmp_path)
    assert (tmp_path / "bin/program").exists()


def test_user_installs_of_pip_are_turned_off(tmp_path: Path) -> None:
    errors = make_without_index(tmp_path / "venv", PIP_USER="1")
    assert "--user" not in errors  # pip checks this option first
    assert "No matching distribution" in errors


def test_missing_packages_say_what_to_install(tmp_path: Path) -> None:
    done = make_without("*ensurepip*|*cryptography*", tmp_path, "run")
    assert done.returncode != 0
    for packages in ("python3-venv", "python3-cryptography python3-docopt"):
        assert f"apt-get install {packages}" in done.stdout
