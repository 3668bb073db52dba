"""Everything that the tests read out of the relay's log lines."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional

READY = re.compile(r"^relay ready: address=(?P<addresses>\S+) public_key=(?P<key>[A-Za-z0-9_-]{43})$")
STATE = re.compile(r"^relay state: (?P<fields>.*)$")
ENDED = re.compile(r"^connection ended: (?P<fields>.*)$")
FAILURE = re.compile(r"Traceback|bug of the relay|relay failed")
FIELD = re.compile(r'(\w+)=("[^"]*"|\S*)')

# Before the log had key=value fields. These go once the relay writes the lines above.
OLD_READY = re.compile(
    r"^relay ready: listening on (?P<addresses>.*), public key (?P<key>[A-Za-z0-9_-]{43})$"
)
OLD_STATE = re.compile(r"^state: (?P<figures>.*?)(; since the start: (?P<since>.*))?$")
OLD_ENDED = re.compile(
    r"^ended (?P<address>\S+)( key=(?P<key>\S+))? (?P<role>[a-z ]+): (?P<reason>.*), "
    r"(?P<received>\d+) bytes in, (?P<sent>\d+) out, (?P<seconds>[\d.]+) s$"
)
OLD_ROLES = {"waiting connect": "pending connect", "newcomer": "awaiting init"}


class Reason:
    """Regular expressions for the reasons that tests look for in the ends of connections."""

    ACCEPT_TIMEOUT = "nobody accepted it in time"
    ADDRESS_LIMIT = "connections from that address"
    EVICTED = "gave way|evicted"
    HANDSHAKE_FAILED = "handshake failed"
    HANDSHAKE_TIMEOUT = "no handshake in time"
    IDLE = "nothing received for too long"
    INIT_TIMEOUT = "no InitConnection in time"
    KEY_LIMIT = "connections of that key"
    NORMAL = (
        "the peer closed|connection was lost|other end of the tunnel ended|nothing received for too long"
        "|nobody|no such connect|rejected|listener ended|a newer listener"
    )
    NOT_OFFSET = "not an Offset peer"
    OLD_PEER = "peer older than 0.1.3"
    PARTNER_ENDED = "other end of the tunnel ended"
    PEER_CLOSED = "the peer closed"
    PENDING_LIMIT = "too many (waiting|pending) connects"
    PROTOCOL_ERROR = "the peer broke the protocol"
    REKEYS = "rekeys within"
    REPLACED = "a newer listener has the same key"
    SERVER_FULL = "connections in all"
    STALLED = "did not read for too long"
    TUNNEL_LIMIT = "tunnels of that key"
    WORKER_ENDED = "worker process ended"


class Ready(NamedTuple):
    """What the line says that the relay writes once it listens."""

    addresses: list[str]
    public_key: str  # base64url


class ConnectionEnd(NamedTuple):
    """What the line says that each connection leaves."""

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
    """What the relay reports on SIGUSR1."""

    figures: dict[str, int]
    ended: dict[str, int]  # connections for each reason, since the start


def parse_ready(line: str) -> Optional[Ready]:
    """Return what a line says if it is the ready line."""
    found = READY.match(line.rstrip()) or OLD_READY.match(line.rstrip())
    return Ready(re.split(",| and ", found["addresses"]), found["key"]) if found else None


def parse_end(line: str) -> Optional[ConnectionEnd]:
    """Return what a line says if it is about the end of a connection."""
    found = ENDED.match(line)
    fields: dict[str, str]
    if found:
        fields = _fields(found["fields"])
    elif (old := OLD_ENDED.match(line)) is not None:
        fields = old.groupdict(default="-")
        fields["role"] = OLD_ROLES.get(fields["role"], fields["role"])
    else:
        return None
    return ConnectionEnd(
        fields["address"],
        fields["key"],
        fields["role"],
        fields["reason"],
        int(fields["received"]),
        int(fields["sent"]),
        float(fields["seconds"]),
    )


def parse_state(line: str) -> Optional[State]:
    """Return what a line says if it is the state line."""
    found = STATE.match(line)
    if found:
        fields = _fields(found["fields"])
        ended = _counts(fields.pop("ended", ""), ": ", ", ")
        return State({name: int(value) for name, value in fields.items()}, ended)
    old = OLD_STATE.match(line)
    if old is None:
        return None
    figures = _counts(old["figures"], " ", "; ")
    since = _counts(old["since"] or "", " ", "; ")
    renamed = {
        name.replace(" ", "_").replace("bytes_buffered", "buffered_bytes"): n for name, n in figures.items()
    }
    totals = {"bugs": since.pop("bugs", 0), "completed_handshakes": since.pop("handshakes", 0)}
    return State({**renamed, **totals}, since)


def is_failure(line: str) -> bool:
    """Return whether a line reports a bug of the relay."""
    return FAILURE.search(line) is not None


def _fields(text: str) -> dict[str, str]:
    return {name: value.strip('"') for name, value in FIELD.findall(text)}


def _counts(text: str, sign: str, separator: str) -> dict[str, int]:
    pairs = (part.rpartition(sign) for part in text.split(separator) if part)
    return {name: int(count) for name, _, count in pairs}
