"""Parsers for the relay's log lines."""

from __future__ import annotations

import json
import re
from typing import NamedTuple, Optional

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z ")
READY = re.compile(r"^relay ready: address=(?P<addresses>\S+) public_key=(?P<key>[\w-]{43})(?: host=\S+)?$")
STATE = re.compile(r"^relay state: (?P<fields>.*)$")
ENDED = re.compile(r"^connection ended: (?P<fields>.*)$")
FAILURE = re.compile(r"Traceback|^error: ")
FIELD = re.compile(r'(\w+)=("[^"]*"|\S*)')
DOCUMENTED_LINE = re.compile(r"(?:(?P<level>warning|error): )?(?P<event>[^:]+)(?:: (?P<fields>.+))?")
DOCUMENTED_FIELD = re.compile(r'(\w+)=("(?:[^"\\]|\\.)*"|[^ "]+)(?: |$)')


class Reason:
    """Regular expressions for the reasons of ended connections."""

    ADDRESS_LIMIT = "connections from that address"
    EVICTED = "evicted at a limit"
    HANDSHAKE_FAILED = "handshake failed"
    IDLE = "nothing received for too long"
    NORMAL = (
        "the peer closed|connection was lost|other end of the tunnel ended|nothing received for too long"
        "|no listener|no connect from that key|rejected|listener ended|a newer listener|not accepted"
    )
    PARTNER_ENDED = "other end of the tunnel ended"
    PEER_CLOSED = "the peer closed"
    PROTOCOL_ERROR = "the peer broke the protocol"
    SERVER_FULL = "connections in all"
    WORKER_ENDED = "worker process ended"


class Ready(NamedTuple):
    """The content of the ready line."""

    addresses: list[str]
    public_key: str  # base64url


class ConnectionEnd(NamedTuple):
    """The content of the line about the end of a connection."""

    address: str
    key: str
    role: str
    reason: str
    received: int  # bytes
    sent: int  # bytes
    seconds: float

    @property
    def port(self) -> int:
        """Return the peer's port."""
        return int(self.address.rpartition(":")[2])


class State(NamedTuple):
    """The content of the state line."""

    figures: dict[str, int]
    ended: dict[str, int]  # connections for each reason, since startup


def without_time(line: str) -> str:
    """Return a line without the time at its start; lines in the journal have none."""
    found = TIME.match(line)
    return line[found.end() :] if found else line


def parse_ready(line: str) -> Optional[Ready]:
    """Return what a line says if it is the ready line."""
    found = READY.match(without_time(line.rstrip()))
    return Ready(found["addresses"].split(","), found["key"]) if found else None


def parse_end(line: str) -> Optional[ConnectionEnd]:
    """Return what a line says if it is about the end of a connection."""
    found = ENDED.match(without_time(line))
    if not found:
        return None
    fields = fields_in(found["fields"])
    return ConnectionEnd(
        fields["address"],
        fields["key"],
        fields["role"],
        f"{fields['reason']} {fields.get('detail', '')}".rstrip(),
        int(fields["received"]),
        int(fields["sent"]),
        float(fields["seconds"]),
    )


def parse_state(line: str) -> Optional[State]:
    """Return what a line says if it is the state line."""
    found = STATE.match(without_time(line))
    if not found:
        return None
    fields = fields_in(found["fields"])
    fields.pop("host", None)
    counts = (part.rpartition(": ") for part in fields.pop("ended", "").split(", ") if part)
    ended = {reason: int(count) for reason, _, count in counts}
    return State({name: int(value) for name, value in fields.items()}, ended)


def is_failure(line: str) -> bool:
    """Return whether a line reports a bug of the relay."""
    return FAILURE.search(without_time(line)) is not None


def fields_in(text: str) -> dict[str, str]:
    """Return the fields in a line, or in a part of it."""
    return {name: value.strip('"') for name, value in FIELD.findall(text)}


def parse_text(line: str) -> dict[str, str]:
    """Parse a line without its time as docs/logs.md describes it; nothing may be left over."""
    found = DOCUMENTED_LINE.fullmatch(line)
    assert found, line
    fields = found["fields"] or ""
    assert "".join(match[0] for match in DOCUMENTED_FIELD.finditer(fields)) == fields
    pairs = DOCUMENTED_FIELD.findall(fields)
    values = {name: json.loads(value) if value[0] == '"' else value for name, value in pairs}
    return {"level": found["level"] or "info", "event": found["event"], **values}
