"""README.md and docs/ say what is so."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.identity import encode_key, load_identity
from offset_common.tickets import RelayTicket
from tests.documents import (
    DOCUMENTS,
    OWNERS_COMMANDS,
    PYTHON_PROGRAMS,
    ROOT,
    environment,
    make_clone,
)
from tests.support.relay_log import parse_ready
from tests.support.relay_process import RelayProcess
from tools.pictures import draw

PATIENCE = 20.0  # seconds for anything


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path)


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
    parsed = parse_ready(ready)
    assert parsed is not None
    assert parsed.addresses[0].startswith("127.0.0.1:")
    assert parsed.public_key == encode_key(ticket.public_key)


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
        process.kill()


def stmgr(directory: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, "stmgr.py", *arguments], cwd=directory, check=True, timeout=PATIENCE)


@pytest.mark.usefixtures("relay")
def test_the_programs_of_the_readme_talk_to_each_other(clone: Path) -> None:
    listener, caller = PYTHON_PROGRAMS
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
    section = (ROOT / "docs/architecture.md").read_text("utf-8").split("\n## ")[1]
    rooms = "\n".join(line for line in section.splitlines() if line.startswith("    "))
    modules = [
        module.name for module in (ROOT / "offset_common").rglob("*.py") if module.name != "__init__.py"
    ]
    assert sorted(name for name in modules if name not in rooms) == []
    assert sorted(set(re.findall(r"\w+\.py", rooms)) - {*modules, "strelay.py", "stmgr.py"}) == []


@pytest.mark.parametrize("source", sorted((ROOT / "docs/pictures").glob("*.txt")), ids=lambda path: path.stem)
def test_a_picture_is_what_its_description_says_and_a_document_shows_it(source: Path) -> None:
    picture = source.with_suffix(".svg")
    assert picture.read_text("utf-8") == draw(source.read_text("utf-8")), "make pictures"
    assert f"](pictures/{picture.name})" in (ROOT / "docs/architecture.md").read_text("utf-8")


def test_the_picture_of_rooms_names_every_module_of_relay_channel_wire_and_client() -> None:
    words = set(re.findall(r"\w+", (ROOT / "docs/pictures/rooms.txt").read_text("utf-8")))
    for room in ("relay", "channel", "wire", "client"):
        modules = {path.stem for path in (ROOT / "offset_common" / room).glob("*.py")} - {"__init__"}
        assert modules <= words, room


def test_a_description_that_cannot_be_drawn_is_told_where() -> None:
    with pytest.raises(ValueError, match="line 2: no such thing: circle"):
        draw("size 10 10\ncircle 1 1")
