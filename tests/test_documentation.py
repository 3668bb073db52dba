"""README.md and docs/: commands work, links and file names exist, the list of modules is complete."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from offset_common.identity import encode_key
from offset_common.relay.close_reason import CloseReason
from offset_common.tickets import RelayTicket
from tests.documents import (
    DOCUMENTS,
    OWNERS_COMMANDS,
    ROOT,
    blocks,
    environment,
    make_clone,
    make_files,
)
from tests.log_calls import OF_EVERY_LINE, documented_events, logged_events, table
from tests.support.process import PATIENCE, ready_relay
from tests.support.relay_process import RelayProcess, relay
from tools.prose import check, faults

__all__ = ["relay"]


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return make_clone(tmp_path)


def test_commands_by_hand_start_a_relay(clone: Path) -> None:
    *preparations, start = OWNERS_COMMANDS
    assert len(preparations) == 3
    for line in preparations:
        subprocess.run(line.split(), cwd=clone, env=environment(), check=True, timeout=PATIENCE)
    ticket = RelayTicket.load(clone / "relay/relay.relay")
    assert str(ticket.address) == "relay.example.com:4567"
    # The documented port may be in use on this machine.
    line = start.replace("0.0.0.0:4567", "127.0.0.1:0")
    assert line != start
    with ready_relay(line.split(), clone, environment()) as (ready, _):
        assert ready.addresses[0].startswith("127.0.0.1:")
        assert ready.public_key == encode_key(ticket.public_key)


def test_documented_programs_exchange_messages(relay: RelayProcess, clone: Path) -> None:
    listener, caller = blocks("programs.md", "python")
    key = make_files(clone, relay.ticket, "listener", "caller")["listener"]
    with subprocess.Popen(
        [sys.executable, "-c", listener], cwd=clone, env=environment(), stderr=subprocess.PIPE, text=True
    ) as listening:
        try:
            output = ""
            deadline = time.monotonic() + PATIENCE
            # A connect before the listen is rejected, so it is retried.
            while "you said hello" not in output and listening.poll() is None and time.monotonic() < deadline:
                done = subprocess.run(
                    [sys.executable, "-c", caller],
                    cwd=clone,
                    env=environment(),
                    input=key + "\n",
                    stdout=subprocess.PIPE,
                    text=True,
                    timeout=PATIENCE,
                )
                output = done.stdout
            assert "you said hello" in output
            listening.send_signal(signal.SIGINT)
            assert listening.communicate(timeout=PATIENCE)[1] == ""  # no traceback
        finally:
            listening.kill()


MADE = {"strelay.md", "stmgr.md", "stforward.md", "configuration.md", "illustrated.html"}
"""Pages of docs/ that are made with the site; tests/test_site.py follows all links there."""


UNADDRESSED = {"CHANGELOG.md", "SECURITY.md"}
"""Documents whose form is a convention."""


@pytest.mark.parametrize("document", DOCUMENTS)
def test_relative_links_have_a_target(document: str) -> None:
    path = ROOT / document
    text = re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)#:]+)(?:#[\w-]+)?\)", text):
        assert link in MADE or (path.parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_in_documents_exist(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    for name in re.findall(
        r"(?<![\w./-])(?:offset_common|tests|tools|docs|wire|channel|relay|client)/[\w/.-]*\w", text
    ):
        if not name.endswith((".ident", ".relay", "relay/relay")):
            assert any((root / name).exists() for root in (ROOT, ROOT / "offset_common")), name


def test_tests_named_in_documents_exist() -> None:
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = {
        name
        for document in DOCUMENTS
        for name in re.findall(r"\b(test_\w+)`", (ROOT / document).read_text("utf-8"))
    }
    assert len(named) > 30
    assert named - tests == set()


def test_texts_use_the_vocabulary() -> None:
    assert [str(fault) for fault in faults()] == []


def test_vocabulary_finds_words_to_avoid() -> None:
    text = "It is on the hot path.\n\nWhat is sent is kept. What is kept?\n"
    assert [(fault.line, fault.text) for fault in check("a page", text)] == [
        (1, "hot path"),
        (3, "What is sent is kept."),
    ]


@pytest.mark.parametrize("document", [each for each in DOCUMENTS if each not in UNADDRESSED])
def test_every_page_says_who_it_is_for(document: str) -> None:
    beginning = re.split(r"\n\n+", (ROOT / document).read_text("utf-8"))[1]
    assert re.search(r"\bfor\s+(people|everybody|programmers)\b", beginning)


def test_changelog_has_the_form_of_keep_a_changelog() -> None:
    headings = re.findall(r"^(#+) (.*)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[:2] == [("#", "Changelog"), ("##", "[Unreleased]")]
    versions = [text for level, text in headings[2:] if level == "##"]
    assert all(re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", text) for text in versions)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert {text for level, text in headings if level == "###"} <= kinds


def test_the_list_of_modules_is_complete() -> None:
    section = (ROOT / "docs/architecture.md").read_text("utf-8").split("\n## ")[1]
    listed: set[str] = set()
    folders: list[str] = []
    for indent, name in re.findall(r"^((?: {4})+)(\w+(?:/|\.py))(?= |$)", section, re.MULTILINE):
        del folders[len(indent) // 4 - 1 :]
        if name.endswith("/"):
            folders.append(name)
        else:
            listed.add("".join(folders) + name)
    modules = [path for path in (ROOT / "offset_common").rglob("*.py") if path.name != "__init__.py"]
    scripts = {"strelay.py", "stmgr.py", "stforward.py"}
    assert listed == {path.relative_to(ROOT).as_posix() for path in modules} | scripts


def test_steps_of_the_journeys_are_calls_of_the_code() -> None:
    text = (ROOT / "docs/architecture.md").read_text("utf-8")
    journeys = re.findall(r"^These are (\d+) calls in (\d+) files", text, re.MULTILINE)
    sections = [section for section in text.split("\n## ") if "\nThese are " in section]
    assert len(journeys) == len(sections) == 2
    for (calls, files), section in zip(journeys, sections):
        steps = re.findall(r"^\d+\. ([\w/.]+), `(\w+)\.?(\w*)`", section, re.MULTILINE)
        assert (len(steps), len({file for file, _, _ in steps})) == (int(calls), int(files))
        for file, name, method in steps:
            places = [ROOT / "offset_common" / folder / file for folder in ("relay", "channel", "")]
            source = next(place for place in places if place.exists()).read_text("utf-8")
            assert re.search(rf"^(?:class|def) {name}\b", source, re.MULTILINE), name
            assert not method or f"def {method}(" in source, f"{name}.{method}"


def test_all_log_events_and_their_fields_are_documented() -> None:
    logged = logged_events()
    assert sorted(logged ^ documented_events()) == [], "the source and the table in docs/logs.md differ"
    for event in logged:
        assert re.fullmatch(r"[\w %-]+", event.name), "an event is followed by a colon, so it contains none"


def test_all_log_fields_are_explained() -> None:
    explained = {name for names, _, _ in table("field") for name in re.findall(r"\w+", names)}
    used = {name for event in logged_events() for name in event.fields}
    assert explained == used | {OF_EVERY_LINE}
    assert not used & {"time", "level", "event", OF_EVERY_LINE}, "names that the formats use"


def test_all_close_reasons_are_documented() -> None:
    documented = [(reason, name) for reason, name, _, _ in table("reason")]
    assert documented == [(reason.value, reason.name.lower()) for reason in CloseReason]
