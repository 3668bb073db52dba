"""The state of a relay as one JSON object: /status.json, which the page and `stmgr relay-status` read.

docs/operations.md describes its fields.
"""

from __future__ import annotations

import os
import time
from heapq import nlargest, nsmallest
from typing import Any, Callable, NamedTuple, Optional

from offset_common import __version__
from offset_common.identity import encode_key
from offset_common.status.recent_log import Line
from offset_common.status.snapshot import Census, Group, Row, Snapshot, Use

MAX_ROWS = 1000
SHOWN_GROUPS = 10
SORT_KEYS: dict[str, Callable[[Row], Any]] = {
    "key": lambda row: row.key,
    "address": lambda row: row.address,
    "role": lambda row: row.role,
    "since": lambda row: row.since,
    "received": lambda row: row.received,
    "sent": lambda row: row.sent,
    "queued": lambda row: row.queued,
}

NameOf = Callable[[bytes], str]
"""Returns the name that an operator has given to a key, or an empty string."""


class Selection(NamedTuple):
    """Which connections to list.

    Args:
        most: connections at most.
        text: what the key, name or address must contain.
        role: a value of ROLES, or an empty string for any.
        sort: a key of SORT_KEYS.
        descending: the largest first.
    """

    most: int = 100
    text: str = ""
    role: str = ""
    sort: str = "since"
    descending: bool = False


class RelayFacts(NamedTuple):
    """What does not change while a relay runs.

    Args:
        public_key: as in the ticket.
        addresses: it listens on.
        started_at: seconds of the system's clock.
    """

    public_key: str
    addresses: tuple[str, ...]
    started_at: float


def status_report(
    facts: RelayFacts,
    snapshot: Snapshot,
    census: Census,
    log: list[Line],
    name_of: NameOf,
    selection: Optional[Selection],
) -> dict[str, Any]:
    """Return the object.

    Args:
        facts: what does not change.
        snapshot: the state.
        census: the part of the snapshot about connections.
        log: the last lines.
        name_of: names of keys.
        selection: which connections to list; None for none.
    """
    report: dict[str, Any] = {
        "version": __version__,
        "public_key": facts.public_key,
        "addresses": facts.addresses,
        "started": round(facts.started_at, 3),
        "time": round(snapshot.taken_at, 3),
        "draining": snapshot.health.draining,
        "loop_delay_seconds": round(snapshot.loop_delay, 6),
        "limits": [use_report(use) for use in census.limits],
        "connections": census.connections,
        "roles": census.roles,
        "queued_bytes": census.queued,
        "waiting_for_buffers": census.waiting_for_buffers,
        "totals": {
            "connections": census.connections + sum(census.ended.values()),
            "handshakes": census.handshakes,
            "tunnels": census.tunnels,
            "received_bytes": census.traffic.received,
            "sent_bytes": census.traffic.sent,
            "bugs": census.bugs,
        },
        "keys": [
            {"key": encode_key(key), "name": name_of(key), **_sums(group)}
            for key, group in _largest(census.keys)
        ],
        "addresses_in_use": [
            {"address": address, **_sums(group)} for address, group in _largest(census.addresses)
        ],
        "ended": [
            {"reason": reason.name.lower(), "text": reason.value, "count": count}
            for reason, count in sorted(census.ended.items(), key=lambda item: -item[1])
        ],
        "log": [line._asdict() for line in log],
        "process": process_report(),
    }
    if selection is not None:
        report["list"] = _list_report(census.rows, selection, name_of)
    return report


def use_report(use: Use) -> dict[str, Any]:
    """Return the use of a limit."""
    return {
        "name": use.name,
        "title": use.title,
        "used": use.used,
        "limit": use.limit,
        "unit": use.unit,
        "for_all": use.for_all,
    }


def process_report() -> dict[str, float]:
    """Return what the process itself uses; a figure that the system does not tell is missing."""
    report = {"cpu_seconds": round(time.process_time(), 3)}
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - cheaper than pathlib
            report["resident_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass  # a system without /proc
    return report


def _largest(groups: dict[Any, Group]) -> list[tuple[Any, Group]]:
    return nlargest(
        SHOWN_GROUPS, groups.items(), key=lambda item: (item[1].connections, item[1].received + item[1].sent)
    )


def _sums(group: Group) -> dict[str, int]:
    return {
        "connections": group.connections,
        "received": group.received,
        "sent": group.sent,
        "queued": group.queued,
    }


def _list_report(rows: list[Row], selection: Selection, name_of: NameOf) -> dict[str, Any]:
    text = selection.text.lower()
    matching = [
        row
        for row in rows
        if selection.role in ("", row.role) and (not text or _contains(row, text, name_of))
    ]
    choose = nlargest if selection.descending else nsmallest
    chosen = choose(selection.most, matching, key=SORT_KEYS[selection.sort])
    return {
        "matching": len(matching),
        "rows": [
            {**row._asdict(), "key": _shown(row), "name": name_of(row.key) if row.key else ""}
            for row in chosen
        ],
    }


def _contains(row: Row, text: str, name_of: NameOf) -> bool:
    return (
        text in row.address
        or text in _shown(row).lower()
        or (bool(row.key) and text in name_of(row.key).lower())
    )


def _shown(row: Row) -> str:
    return encode_key(row.key) if row.key else ""
