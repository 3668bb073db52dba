"""The trace of a check: complete and dissected without gaps, as docs/protocol.md shows it."""

from __future__ import annotations

import re
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import stmgr
from offset_common.address import Address
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.dissector import dissect
from offset_common.tools.frame_assembler import SENT, Frame
from offset_common.tools.meanings import meaning_of
from offset_common.tools.relay_check import RelayCheck
from offset_common.tools.trace import TraceWatcher, frame_lines
from offset_common.wire.frames import encode_frame
from tests.commands import ROOT, run_script
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess, relay
from tests.terminals import run_in_terminal

__all__ = ["relay"]

PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")

OPENING = ["version", "ExchangeRandNonce", "ExchangeDh"]
CONVERSATION = {
    "listener -> relay": [*OPENING, "InitConnection listen"],
    "listener <- relay": [*OPENING, "IncomingConnection"],
    "connector -> relay": [*OPENING, "InitConnection connect", "tunnel message"],
    "connector <- relay": [*OPENING, "tunnel message"],
    "acceptor -> relay": [*OPENING, "InitConnection accept", "tunnel message"],
    "acceptor <- relay": [*OPENING, "tunnel message"],
}
"""The frames with which two nodes connect through a relay: sections 2, 4 and 7 of docs/protocol.md."""

HEADING = re.compile(r"^frame (\d+): (\w+ (?:->|<-) relay): (.+)$")


def conversation_of(lines: list[str]) -> dict[str, list[str]]:
    """Return the names of the frames, in order, by connection and direction."""
    names: dict[str, list[str]] = defaultdict(list)
    numbers = []
    for heading in filter(None, map(HEADING.match, lines)):
        numbers.append(int(heading[1]))
        if heading[3] == OPENING[0]:
            names[heading[2]].clear()  # a connect that the relay processed before the listen is retried
        names[heading[2]].append(heading[3])
    assert numbers == list(range(1, len(numbers) + 1))
    return dict(names)


def shape_of(lines: list[str]) -> dict[str, list[str]]:
    """Return the names of the layers and parts of each complete frame, by direction and frame name."""
    shapes: dict[str, list[str]] = {}
    shape: list[str] = []
    for line in lines:
        heading = HEADING.match(line)
        if heading:
            shape = []
            shapes.setdefault(f"{heading[2][-8:]}: {heading[3]}", shape)
        part = re.match(r"^( {4,12})([A-Za-z]+)(?:  | (?=empty)|$)", line)
        layer = re.match(r"^( {2,})([A-Za-z ]+) \(section [\d.]+\)$", line)
        if layer:
            shape.append(f"{layer[1]}{layer[2]}")
        elif part:
            shape.append(f"{part[1]}{part[2]}")
    return {name: shape for name, shape in shapes.items() if shape}


@pytest.fixture
def ticket_file(relay: RelayProcess, tmp_path: Path) -> Path:
    path = tmp_path / "a.relay"
    relay.ticket.save(path)
    return path


class Collector(TraceWatcher):
    """A trace that stores its lines and frames."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.frames: list[Frame] = []
        super().__init__(self.lines.append)

    def _print(self, frame: Frame) -> None:
        self.frames.append(frame)
        super()._print(frame)


@pytest.fixture
def seen(relay: RelayProcess) -> list[Frame]:
    """The frames of one check."""
    watcher = Collector()
    assert RelayCheck(relay.ticket, watcher, PATIENCE, round_trips=False, bulk=False).run()
    return watcher.frames


def test_the_trace_shows_the_whole_conversation(ticket_file, capsys):
    assert stmgr.main(["relay-check", str(ticket_file), "--trace"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert conversation_of(out.splitlines()) == CONVERSATION
    assert out.endswith("\nthe relay works\n")
    assert "throughput" not in out
    assert out.isascii()


def test_frames_appear_under_the_heading_of_their_step(ticket_file, capsys):
    stmgr.main(["relay-check", str(ticket_file), "--trace"])
    steps = re.split(r"^== ", capsys.readouterr().out, flags=re.MULTILINE)
    inits = {
        step.partition("\n")[0]: re.findall(r"InitConnection (\w+)$", step, re.MULTILINE) for step in steps
    }
    assert (inits["listen"], inits["connect"], inits["accept"]) == (["listen"], ["connect"], ["accept"])


def test_the_parts_of_a_frame_contain_all_its_bytes(seen):
    for frame in seen:
        outermost = dissect(frame)[0]
        assert b"".join(part.data for part in outermost.parts) == encode_frame(frame.payload)


def test_a_failed_check_shows_the_frames_before_it(relay):
    watcher = Collector()
    ticket = RelayTicket(Identity.generate().public_key, relay.ticket.address)
    check = RelayCheck(ticket, watcher, PATIENCE, round_trips=False, bulk=False)
    assert not check.run()
    watcher.finished(check)
    assert conversation_of(watcher.lines) == {
        "listener -> relay": OPENING[:2],
        "listener <- relay": OPENING[:2],
    }
    assert any("has another identity" in line for line in watcher.lines)


def test_every_frame_has_a_meaning_and_a_valid_section(seen):
    names = {(frame.name, frame.direction) for frame in seen}
    names |= {(name, SENT) for name in ("RejectConnection", "keepAlive", "Rekey", "unreadable")}
    for name, direction in names:
        meaning = meaning_of(name, direction)
        assert meaning.sentence.endswith(".")
        assert re.search(rf"^##+ {re.escape(meaning.section)}\.? ", PROTOCOL, re.MULTILINE), name
    for frame in seen:
        for section in dissect(frame):
            assert re.search(rf"^##+ {re.escape(section.section)}\.? ", PROTOCOL, re.MULTILINE)


# The following tests need a process of their own.


def read_the_protocol(*arguments: object) -> list[str]:
    status, out, err = run_script("examples/read_the_protocol.py", *arguments, PYTHONIOENCODING="ascii")
    assert (status, err) == (0, "")
    assert "\x1b" not in out
    return out.splitlines()


def walk_through() -> str:
    """Return the section of docs/protocol.md about a whole conversation."""
    return PROTOCOL.partition("## 10. A walk-through")[2].partition("\n## ")[0]


def test_documented_sequence_is_that_of_a_run():
    names: dict[str, list[str]] = defaultdict(list)
    for sender, receiver, messages in re.findall(r"^    (\w+)->>(\w+): (.+)$", walk_through(), re.MULTILINE):
        connection = f"{receiver} <- relay" if sender == "relay" else f"{sender} -> relay"
        names[connection] += messages.split(", ")
    assert names == CONVERSATION == conversation_of(read_the_protocol("--short"))


def test_documented_frame_is_shown_as_it_is_printed():
    block = re.search(r"^```text\n(.*?)^```$", walk_through(), re.MULTILINE | re.DOTALL)
    assert block is not None
    documented = shape_of(block[1].splitlines())
    assert len(documented) == 1
    assert documented.items() <= shape_of(read_the_protocol("--short")).items()


def test_short_output_shows_the_opening_frames_once():
    def shown_in_full(lines: list[str]) -> dict[str, int]:
        counts: dict[str, int] = defaultdict(int)
        for heading, below in zip(lines, lines[1:]):
            match = HEADING.match(heading)
            if match and below:
                counts[match[3]] += 1
        return counts

    short, full = read_the_protocol("--short"), read_the_protocol()
    assert [shown_in_full(short)[name] for name in OPENING] == [2, 2, 2]
    assert [shown_in_full(full)[name] for name in OPENING] == [6, 6, 6]
    assert shape_of(short) == shape_of(full)


def test_the_example_works_with_any_relay(ticket_file, relay):
    lines = read_the_protocol(ticket_file)
    assert str(relay.ticket.address) in lines[0]
    assert conversation_of(lines) == CONVERSATION


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_colour_unless_no_color_is_set(environment):
    command = [sys.executable, ROOT / "examples" / "read_the_protocol.py", "--short"]
    status, shown = run_in_terminal(command, environment=environment)
    assert status == 0
    assert ("\x1b[" in shown) is not bool(environment)
    assert conversation_of(re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()) == CONVERSATION


def trace_in_terminal(ticket: Path, columns: int) -> tuple[int, str]:
    """Run a check with a trace on a terminal; return its status and the text, which must fit."""
    command = [sys.executable, ROOT / "stmgr.py", "relay-check", ticket, "--trace"]
    status, shown = run_in_terminal(command, columns=columns)
    text = re.sub(r"\x1b\[[0-9;]*[mK]", "", shown).replace("\r", "")
    assert [line for line in text.splitlines() if len(line) > columns] == []
    return status, text


@pytest.mark.parametrize("columns", [40, 100])
def test_a_trace_fits_the_terminal(columns, ticket_file):
    status, text = trace_in_terminal(ticket_file, columns)
    assert status == 0
    assert text.count("ExchangeDh") > 6


def test_a_failed_trace_fits_the_terminal(tmp_path):
    path = tmp_path / "a.relay"
    RelayTicket(bytes(32), Address("127.0.0.1", 1)).save(path)
    assert trace_in_terminal(path, 60)[0] == 1


@pytest.mark.parametrize("width", [40, 108])
def test_a_narrow_trace_shows_the_same_bytes(width, seen):
    def bytes_of(lines: list[str]) -> str:
        return "".join(re.findall(r"(?<= )[0-9a-f]{2}(?= |$)", "\n".join(lines), re.MULTILINE))

    frame = next(each for each in seen if each.name == "InitConnection connect")
    signature = next(each for each in seen if each.name == "ExchangeDh").layers[0].signature
    shown = bytes_of(frame_lines(1, next(e for e in seen if e.name == "ExchangeDh"), False, width))
    assert signature.hex() in shown
    assert frame.layers[-1].public_key.hex() in bytes_of(frame_lines(1, frame, False, width))
