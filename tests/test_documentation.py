"""README.md and docs/ say what is so."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.identity import encode_key, load_identity
from offset_common.tickets import RelayTicket
from tests.end_to_end.relay_process import RelayProcess

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = ["README.md", "CHANGELOG.md", "docs/protocol.md", "docs/architecture.md"]
PATIENCE = 20.0  # seconds for anything

OWNERS_COMMANDS = re.findall(r"^    (mkdir relay|python st(?:mgr|relay)\.py .*)$", README, re.MULTILINE)
PROGRAMS = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def environment() -> dict[str, str]:
    """An environment in which `python` is the one that runs the tests, and the project can be imported."""
    here = str(Path(sys.executable).parent)
    return {
        **os.environ,
        "PATH": here + os.pathsep + os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A directory with the scripts, as in a fresh clone."""
    for name in ("stmgr.py", "strelay.py"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "offset_common").symlink_to(ROOT / "offset_common")
    return tmp_path


def test_the_owners_commands_of_the_readme_make_a_relay_that_is_ready(clone: Path) -> None:
    *preparations, start = OWNERS_COMMANDS
    assert len(preparations) == 3
    for line in preparations:
        subprocess.run(line.split(), cwd=clone, env=environment(), check=True, timeout=PATIENCE)
    ticket = RelayTicket.load(clone / "relay/relay.relay")
    assert str(ticket.address) == "relay.example.com:4567"
    # Whoever runs the tests may have a relay on that very port.
    line = start.replace("0.0.0.0:4567", "127.0.0.1:0")
    assert line != start
    with subprocess.Popen(
        line.split(), cwd=clone, env=environment(), stderr=subprocess.PIPE, text=True
    ) as relay:
        try:
            assert relay.stderr is not None
            ready = relay.stderr.readline()
            relay.send_signal(signal.SIGTERM)
            assert relay.wait(PATIENCE) == 0
        finally:
            relay.kill()
    assert ready.startswith("relay ready: listening on 127.0.0.1:")
    assert ready.endswith(f"public key {encode_key(ticket.public_key)}\n")


@pytest.fixture
def relay(clone: Path) -> Iterator[RelayProcess]:
    """A relay whose ticket, and two nodes' identities, are where the readme's programs look for them."""
    (clone / "relay").mkdir()
    for name in ("relay/relay.ident", "listener.ident", "caller.ident"):
        stmgr(clone, "gen-ident", "--output", name)
    process = RelayProcess(clone / "relay/relay.ident")
    address = f"127.0.0.1:{process.port}"
    stmgr(
        clone, "relay-ticket", "--address", address, "--idfile", "relay/relay.ident",
        "--output", "relay/relay.relay",
    )  # fmt: skip
    try:
        yield process
    finally:
        process.end()


def stmgr(directory: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "stmgr.py", *arguments], cwd=directory, check=True, timeout=PATIENCE)


@pytest.mark.usefixtures("relay")
def test_the_programs_of_the_readme_talk_to_each_other(clone: Path) -> None:
    listener, caller = PROGRAMS
    assert len(listener.splitlines()) == 10
    key = encode_key(load_identity(clone / "listener.ident").public_key)
    with subprocess.Popen([sys.executable, "-c", listener], cwd=clone, env=environment()) as listening:
        try:
            said = ""
            deadline = time.monotonic() + PATIENCE
            # Nobody but the relay knows when the listener is there; who comes too early is turned away.
            while "you said hello" not in said and listening.poll() is None and time.monotonic() < deadline:
                done = subprocess.run(
                    [sys.executable, "-c", caller],
                    cwd=clone,
                    env=environment(),
                    input=key + "\n",
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=PATIENCE,
                )
                said = done.stdout
            assert "you said hello" in said
        finally:
            listening.kill()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\bmake ([a-z-]+)(?= |\n|`)", README))))
def test_a_make_target_that_the_readme_names_is_there(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{target}:.* ## ", makefile, re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_link_inside_the_repository_leads_somewhere(document: str) -> None:
    path = ROOT / document
    for link in re.findall(r"\]\(([^)#:]+)\)", path.read_text("utf-8")):
        assert (path.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_a_file_that_a_document_names_with_its_path_is_there(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    for name in re.findall(
        r"(?<![\w./-])(?:offset_common|tests|tools|docs|wire|channel|relay|client)/[\w/.]*\w", text
    ):
        if not name.endswith((".ident", ".relay", "relay/relay")):
            assert any((root / name).exists() for root in (ROOT, ROOT / "offset_common")), name


def test_the_map_of_rooms_names_every_module_and_no_other() -> None:
    rooms = (ROOT / "docs/architecture.md").read_text("utf-8").split("## ")[1]
    modules = [
        module.name for module in (ROOT / "offset_common").rglob("*.py") if module.name != "__init__.py"
    ]
    assert sorted(name for name in modules if name not in rooms) == []
    assert sorted(set(re.findall(r"\w+\.py", rooms)) - {*modules, "strelay.py", "stmgr.py"}) == []
