"""The trace of a check: every frame, taken apart without loss, and docs/protocol.md shows the same."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

import stmgr
from offset_common.channel.connection import Connection
from offset_common.constants import KEEPALIVE_INTERVAL, REKEY_INTERVAL
from offset_common.errors import PeerError
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.frames_seen import RECEIVED, SENT, Frame, FrameAssembler
from offset_common.tools.meanings import meaning_of
from offset_common.tools.parts import packed_parts, take_apart
from offset_common.tools.relay_check import RelayCheck
from offset_common.tools.terminal import Paint
from offset_common.tools.trace import TraceWatcher, frame_lines
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import (
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    InitRole,
    RejectConnection,
)
from tests.support.client import tunnel_pair
from tests.support.process import PATIENCE
from tests.support.relay_process import RelayProcess, relay
from tests.terminals import run_in_terminal

__all__ = ["relay"]

ROOT = Path(__file__).parent.parent
PROTOCOL = (ROOT / "docs" / "protocol.md").read_text("utf-8")
HANDSHAKES = json.loads((ROOT / "tests" / "vectors" / "handshake.json").read_text())

OPENING = ["version", "ExchangeRandNonce", "ExchangeDh"]
CONVERSATION = {
    "listener -> relay": [*OPENING, "InitConnection listen"],
    "listener <- relay": [*OPENING, "IncomingConnection"],
    "connector -> relay": [*OPENING, "InitConnection connect", "tunnel message"],
    "connector <- relay": [*OPENING, "tunnel message"],
    "acceptor -> relay": [*OPENING, "InitConnection accept", "tunnel message"],
    "acceptor <- relay": [*OPENING, "tunnel message"],
}
"""What two nodes and a relay must say to each other to meet: sections 2, 4 and 7 of docs/protocol.md."""

HEADING = re.compile(r"^frame (\d+): (\w+ (?:->|<-) relay): (.+)$")


def conversation_of(lines: list[str]) -> dict[str, list[str]]:
    """The names of the frames, in order for each connection and direction."""
    names: dict[str, list[str]] = defaultdict(list)
    numbers = []
    for heading in filter(None, map(HEADING.match, lines)):
        numbers.append(int(heading[1]))
        if heading[3] == OPENING[0]:
            names[heading[2]].clear()  # a connect that came before the listen is tried again
        names[heading[2]].append(heading[3])
    assert numbers == list(range(1, len(numbers) + 1))
    return dict(names)


def shape_of(lines: list[str]) -> dict[str, list[str]]:
    """For each frame that is shown in full, by direction and name: its layers and the names of its parts."""
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
    """A trace that keeps its frames as well."""

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
    assert RelayCheck(relay.ticket, watcher, PATIENCE, measure=False).run()
    return watcher.frames


def test_the_trace_shows_all_that_passes_until_two_nodes_have_met(ticket_file, capsys):
    assert stmgr.main(["relay-check", str(ticket_file), "--trace"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert conversation_of(out.splitlines()) == CONVERSATION
    assert out.endswith("\nthe relay works\n")
    assert "throughput" not in out
    assert out.isascii()


def test_what_a_step_sends_stands_under_its_heading(ticket_file, capsys):
    stmgr.main(["relay-check", str(ticket_file), "--trace"])
    steps = re.split(r"^== ", capsys.readouterr().out, flags=re.MULTILINE)
    inits = {
        step.partition("\n")[0]: re.findall(r"InitConnection (\w+)$", step, re.MULTILINE) for step in steps
    }
    assert (inits["listen"], inits["connect"], inits["accept"]) == (["listen"], ["connect"], ["accept"])


def test_the_parts_of_a_frame_are_its_bytes_without_a_gap(seen):
    for frame in seen:
        outermost = take_apart(frame)[0]
        assert b"".join(part.data for part in outermost.parts) == encode_frame(frame.payload)


def test_what_the_relay_has_of_the_tunnel_is_what_both_nodes_see(seen):
    """Each message of the tunnel leaves one node and reaches the other, under another nonce and key."""
    passed = [frame for frame in seen if frame.name == "tunnel message"]
    there, came, back, arrived = passed
    # Without the ChannelMessage: the relay may give it another padding.
    assert there.layers[1:] == came.layers[1:]
    assert back.layers[1:] == arrived.layers[1:]
    assert there.payload != came.payload
    assert [frame.payload[:12] for frame in (there, came)] == [b"\1" + bytes(11), bytes(12)]


def test_the_keys_in_the_frames_are_those_of_the_nodes_and_of_the_ticket(seen, relay):
    first = {
        (frame.connection, frame.direction): frame.layers[0] for frame in seen if frame.name == OPENING[1]
    }
    sent = {name: message for (name, direction), message in first.items() if direction == SENT}
    for message in sent.values():
        assert isinstance(message, ExchangeRandNonce)
        assert message.opt_dest_public_key == relay.ticket.public_key
    incoming = next(frame.layers[-1] for frame in seen if frame.name == "IncomingConnection")
    assert isinstance(incoming, IncomingConnection)
    assert isinstance(sent["connector"], ExchangeRandNonce)
    assert incoming.public_key == sent["connector"].src_public_key
    assert sent["listener"].src_public_key == sent["acceptor"].src_public_key


@pytest.mark.parametrize("recorded", HANDSHAKES)
@pytest.mark.parametrize(("index", "kind"), [(1, ExchangeRandNonce), (2, ExchangeDh)])
def test_the_originals_packed_messages_are_cut_without_a_gap_and_in_the_order_of_the_fields(
    recorded, index, kind
):
    for direction in (SENT, RECEIVED):
        payloads = [base64.b64decode(f["payload"]) for f in recorded["frames"] if f["direction"] == direction]
        parts = packed_parts(payloads[index], kind.decode(payloads[index]))
        assert b"".join(part.data for part in parts) == payloads[index]
        named = [part.name for part in parts if part.paint is Paint.FIELD]
        fields = ["dhPublicKey", "randNonce", "keySalt", "signature"]
        if kind is ExchangeRandNonce:
            fields = ["randNonce", "srcPublicKey", "optDestPublicKey"][: 3 if direction == SENT else 2]
        assert named == fields


class Conversation:
    """A node and a relay in memory; what the node sees is put together into frames."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        relay, node = Identity.generate(), Identity.generate()
        self.assembler = FrameAssembler("node", self.frames.append)
        self.relay = Connection(relay, 0.0)
        self.node = Connection(node, 0.0, relay.public_key, observer=self.assembler.observe)
        self.exchange(0.0)

    def exchange(self, now: float) -> None:
        """Let everything that is sent arrive."""
        moved = True
        while moved:
            moved = False
            for one, other in ((self.node, self.relay), (self.relay, self.node)):
                data = one.data_to_send()
                other.receive_data(data)
                while other.next_event(now) is not None:
                    pass
                moved = moved or bool(data)

    def names(self) -> list[tuple[str, str]]:
        return [(frame.direction, frame.name) for frame in self.frames]


@pytest.fixture
def talk() -> Conversation:
    conversation = Conversation()
    assert sorted(conversation.names()) == sorted((way, name) for way in (SENT, RECEIVED) for name in OPENING)
    conversation.frames.clear()
    return conversation


def test_a_listeners_messages_are_told_by_their_direction(talk):
    key = Identity.generate().public_key
    talk.node.send(InitConnection(InitRole.LISTEN).encode(), 1.0)
    talk.exchange(1.0)
    talk.relay.send(IncomingConnection(key).encode(), 2.0)
    talk.exchange(2.0)
    talk.node.send(RejectConnection(key).encode(), 3.0)
    talk.exchange(3.0)
    assert talk.names() == [
        (SENT, "InitConnection listen"),
        (RECEIVED, "IncomingConnection"),
        (SENT, "RejectConnection"),
    ]
    assert key[:16].hex(" ") in "\n".join(frame_lines(1, talk.frames[-1], colour=False))


def test_keepalives_and_rekeys_are_told_both_ways(talk):
    now = KEEPALIVE_INTERVAL
    talk.node.handle_time(now)
    talk.relay.handle_time(now)
    talk.exchange(now)
    assert sorted(talk.names()) == [(RECEIVED, "keepAlive"), (SENT, "keepAlive")]
    talk.frames.clear()
    talk.node.channel.peer_is_heard(REKEY_INTERVAL)
    talk.node.channel.last_sent = REKEY_INTERVAL
    talk.node.handle_time(REKEY_INTERVAL)
    talk.exchange(REKEY_INTERVAL)
    assert talk.names() == [(SENT, "Rekey"), (RECEIVED, "Rekey")]
    for frame in talk.frames:
        titles = [section.title for section in take_apart(frame)]
        assert titles == ["frame", "ChannelMessage", "Rekey"]


def test_frames_that_leave_together_are_told_each_with_its_own_layers(talk):
    talk.node.send(InitConnection(InitRole.CONNECT, bytes(32)).encode(), 1.0)
    for number in range(3):
        talk.node.send(b"message %d" % number, 1.0)
    assert talk.frames == []
    assert not talk.assembler.settled
    talk.exchange(1.0)
    assert talk.assembler.settled
    assert [frame.layers[-1] for frame in talk.frames[1:]] == [(b"message %d" % n,) for n in range(3)]


@pytest.mark.parametrize("payload", [b"", b"x" * 27, b"x" * 300])
def test_a_frame_that_cannot_be_read_is_told_as_such(payload, talk):
    talk.node.receive_data(encode_frame(payload))
    with pytest.raises(PeerError):
        talk.node.next_event(1.0)
    talk.assembler.finish()
    assert talk.names() == [(RECEIVED, "unreadable")]
    assert b"".join(p.data for p in take_apart(talk.frames[0])[0].parts) == encode_frame(payload)
    assert frame_lines(1, talk.frames[0], colour=False)


def test_a_message_of_the_relay_that_is_none_is_told_as_such(talk):
    talk.node.send(InitConnection(InitRole.LISTEN).encode(), 1.0)
    talk.exchange(1.0)
    talk.relay.send(b"no message of a relay", 2.0)
    talk.exchange(2.0)
    assert talk.names()[-1] == (RECEIVED, "unreadable")
    assert frame_lines(1, talk.frames[-1], colour=False)


def test_a_check_that_fails_shows_the_frames_up_to_there(relay):
    watcher = Collector()
    ticket = RelayTicket(Identity.generate().public_key, relay.ticket.address)
    check = RelayCheck(ticket, watcher, PATIENCE, measure=False)
    assert not check.run()
    watcher.ends(check)
    assert conversation_of(watcher.lines) == {
        "listener -> relay": OPENING[:2],
        "listener <- relay": OPENING[:2],
    }
    assert any("has another identity" in line for line in watcher.lines)


def test_every_kind_of_frame_has_a_sentence_and_a_section_that_is_there(seen, talk):
    names = {(frame.name, frame.direction) for frame in seen}
    names |= {(name, SENT) for name in ("RejectConnection", "keepAlive", "Rekey", "unreadable")}
    for name, direction in names:
        meaning = meaning_of(name, direction)
        assert meaning.sentence.endswith(".")
        assert re.search(rf"^##+ {re.escape(meaning.section)}\.? ", PROTOCOL, re.MULTILINE), name
    for frame in seen:
        for section in take_apart(frame):
            assert re.search(rf"^##+ {re.escape(section.section)}\.? ", PROTOCOL, re.MULTILINE)


def test_an_observer_changes_nothing_for_a_tunnel_end_to_end(relay):
    with tunnel_pair(relay, end_to_end=True) as (one, other):
        one.send(b"hello")
        assert other.receive(PATIENCE) == b"hello"


# The rest needs a process of its own.


def read_the_protocol(*arguments: object) -> list[str]:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "read_the_protocol.py", *map(str, arguments)],
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    return done.stdout.splitlines()


def walk_through() -> list[str]:
    """What docs/protocol.md shows of the program's output."""
    section = PROTOCOL.partition("## 10. A walk-through")[2]
    block = re.search(r"^```text\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert block is not None
    return block[1].splitlines()


def test_the_walk_through_of_the_document_is_what_the_program_prints():
    printed, documented = read_the_protocol("--short"), walk_through()
    assert conversation_of(documented) == conversation_of(printed) == CONVERSATION
    assert shape_of(documented) == shape_of(printed)
    sentences = [line for line in printed if re.search(r"^  \S.* ", line) and "(section" in line]
    assert [line for line in sentences if line not in documented] == []
    headings = [line for line in printed if line.startswith("== ")]
    assert [line for line in documented if line.startswith("== ")] == headings


def test_in_short_the_opening_is_shown_once_and_in_full_each_time():
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


def test_the_example_reads_the_protocol_of_any_relay(ticket_file, relay):
    lines = read_the_protocol(ticket_file)
    assert str(relay.ticket.address) in lines[0]
    assert conversation_of(lines) == CONVERSATION


@pytest.mark.parametrize("environment", [{}, {"NO_COLOR": "1"}])
def test_a_terminal_gets_colour_unless_it_is_not_wanted(environment):
    command = [sys.executable, ROOT / "examples" / "read_the_protocol.py", "--short"]
    status, shown = run_in_terminal(command, environment=environment)
    assert status == 0
    assert ("\x1b[" in shown) is not bool(environment)
    assert conversation_of(re.sub(r"\x1b\[[\d;]*m", "", shown).splitlines()) == CONVERSATION
