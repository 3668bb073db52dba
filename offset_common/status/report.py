"""The state of a relay as one JSON object: /status.json, which the page and `stmgr relay-status` read.

docs/status.md describes its fields.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from heapq import nlargest, nsmallest
from operator import itemgetter
from typing import Any, Callable, NamedTuple, Optional, TypeVar

from offset_common import __version__
from offset_common.identity import encode_key
from offset_common.status.recent_log import Line
from offset_common.status.survey import Row, Snapshot

MAX_ROWS = 1000
SHOWN_OWNERS = 10
COLUMNS = ("key", "address", "role", "since", "received", "sent", "queued")

K = TypeVar("K", bytes, str)

NameOf = Callable[[bytes], str]
"""Returns the name that an operator has given to a key, or an empty string."""


class Selection(NamedTuple):
    """The connections to list.

    Args:
        most: the maximum number of connections.
        text: what the key, name or address must contain.
        role: one of ROLES, or an empty string for any.
        sort: one of COLUMNS.
        descending: list the largest first.
    """

    most: int = 100
    text: str = ""
    role: str = ""
    sort: str = "since"
    descending: bool = False


class RelayFacts(NamedTuple):
    """The facts that do not change while a relay runs.

    Args:
        public_key: the relay's key, as in its ticket.
        addresses: the addresses that it listens on.
        started_at: seconds of the system's clock.
    """

    public_key: str
    addresses: tuple[str, ...]
    started_at: float


def status_report(
    facts: RelayFacts,
    snapshot: Snapshot,
    log: list[Line],
    name_of: NameOf,
    selection: Optional[Selection],
) -> dict[str, Any]:
    """Return the object.

    Args:
        facts: the facts that do not change.
        snapshot: the state.
        log: the latest lines.
        name_of: returns the name of a key.
        selection: the connections to list; None for none.
    """
    rows, fleet = snapshot.rows, snapshot.fleet
    report: dict[str, Any] = {
        "version": __version__,
        "public_key": facts.public_key,
        "addresses": facts.addresses,
        "started": round(facts.started_at, 3),
        "time": round(snapshot.taken_at, 3),
        "uptime_seconds": round(snapshot.uptime, 3),
        "draining": snapshot.draining,
        "loop_delay_seconds": round(snapshot.loop_delay, 6),
        "limits": [use._asdict() for use in snapshot.limits],
        "connections": snapshot.connections,
        "roles": snapshot.roles,
        "queued_bytes": snapshot.queued,
        "waiting_for_buffers": snapshot.waiting_for_buffers,
        "totals": {
            "connections": snapshot.attempts,
            "handshakes": snapshot.handshakes,
            "tunnels": snapshot.tunnels,
            "received_bytes": snapshot.traffic.received,
            "sent_bytes": snapshot.traffic.sent,
            "bugs": snapshot.bugs,
        },
        "keys": [
            {"key": encode_key(key), "name": name_of(key), "connections": count, **traffic}
            for key, count, traffic in _largest(snapshot.keys, rows, lambda row: row[0])
        ],
        "addresses_in_use": [
            {"address": address, "connections": count, **traffic}
            for address, count, traffic in _largest(snapshot.addresses, rows, lambda row: row[1].prefix)
        ],
        "ended": [
            {"reason": reason.name.lower(), "text": reason.value, "count": count}
            for reason, count in sorted(snapshot.ended.items(), key=lambda item: -item[1])
        ],
        "log": [line._asdict() for line in log],
        "process": process_report(),
    }
    if fleet is not None:
        report["fleet"] = {**fleet._asdict(), "hosts": [each._asdict() for each in fleet.hosts]}
    if selection is not None:
        report["list"] = _list_report(rows, selection, name_of)
    return report


def process_report() -> dict[str, float]:
    """Return the resources that the process uses, as far as the system reports them."""
    report = {"cpu_seconds": round(time.process_time(), 3)}
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - cheaper than pathlib
            report["resident_bytes"] = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        pass  # a system without /proc
    return report


def _largest(
    counts: Mapping[K, int], rows: Sequence[Row], owner: Callable[[Row], K]
) -> list[tuple[K, int, dict[str, int]]]:
    """Return the owners with the most connections, and the traffic of each in the rows."""
    largest = nlargest(SHOWN_OWNERS, counts.items(), key=itemgetter(1))
    traffic: dict[K, dict[str, int]] = {key: {} for key, _ in largest}
    for row in rows:
        sums = traffic.get(owner(row))
        if sums is not None:
            for name, value in zip(COLUMNS[-3:], row[-3:]):
                sums[name] = sums.get(name, 0) + value
    return [(key, count, traffic[key]) for key, count in largest]


def _list_report(rows: Sequence[Row], selection: Selection, name_of: NameOf) -> dict[str, Any]:
    text = selection.text.lower()
    matching = rows
    if selection.role:
        matching = [row for row in matching if row[2] == selection.role]
    if text:
        matching = [row for row in matching if _contains(row, text, name_of)]
    choose = nlargest if selection.descending else nsmallest
    chosen = choose(selection.most, matching, key=itemgetter(COLUMNS.index(selection.sort)))
    return {"matching": len(matching), "rows": [_row_report(row, name_of) for row in chosen]}


def _row_report(row: Row, name_of: NameOf) -> dict[str, Any]:
    key, address, *others = row
    shown = (encode_key(key) if key else "", address.text, *others)
    return {**dict(zip(COLUMNS, shown)), "name": name_of(key) if key else ""}


def _contains(row: Row, text: str, name_of: NameOf) -> bool:
    key, address = row[:2]
    if text in address.text:
        return True
    return bool(key) and (text in encode_key(key).lower() or text in name_of(key).lower())
