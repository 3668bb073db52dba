"""/status.json: complete, and a list of connections that is filtered, sorted and bounded."""

from __future__ import annotations

import json
import re
import time
from typing import Any

import pytest

from offset_common.identity import Identity, decode_key, encode_key
from offset_common.relay.close_reason import CloseReason
from offset_common.status.report import RelayFacts, Selection, status_report
from offset_common.status.survey import Detail, Snapshot, Survey
from tests.commands import ROOT
from tests.relay.harness import Harness

NAMES: dict[bytes, str] = {}


def report(harness: Harness, selection: Selection) -> dict[str, Any]:
    """Return the report of a relay, encoded as JSON and decoded again."""
    results: list[Any] = []
    harness.loop.call_soon(Survey(harness.relay, Detail.ROWS, results.append).step)
    harness.run_until(lambda: bool(results))
    (snapshot,) = results
    assert isinstance(snapshot, Snapshot)
    facts = RelayFacts("the key", ("127.0.0.1:1",), 0.0)
    made = status_report(facts, snapshot, [], lambda key: NAMES.get(key, ""), selection)
    return dict(json.loads(json.dumps(made)))


def rows(harness: Harness, **selection: Any) -> list[dict[str, Any]]:
    """Return the rows of a selection."""
    return list(report(harness, Selection(**selection))["list"]["rows"])


def test_all_fields_are_documented(harness: Harness) -> None:
    section = (ROOT / "docs/status.md").read_text("utf-8").split("\n## ")[2]
    table = dict(re.findall(r"^\| (`.+?) \| (.+) \|$", section, re.MULTILINE))
    made = report(harness, Selection())
    assert {name for names in table for name in re.findall(r"`(\w+)`", names)} == {*made, "fleet"}
    assert set(re.findall(r"`(\w+)`", table["`totals`"])) == {*made["totals"]}


@pytest.mark.parametrize("address", ["192.0.2.7", "2001:db8::7"])
def test_text_finds_an_address(address: str, harness: Harness) -> None:
    harness.admit(address="198.51.100.1")
    harness.admit(address=address)
    (row,) = rows(harness, text=address)
    assert address in row["address"]


def test_uptime_ignores_a_step_of_the_clock(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    before = report(harness, Selection())
    monkeypatch.setattr(time, "time", lambda: before["time"] - 3600)
    harness.advance(100.0)
    after = report(harness, Selection())
    assert after["time"] == before["time"] - 3600
    assert after["uptime_seconds"] - before["uptime_seconds"] == pytest.approx(100.0, abs=1.0)


def test_text_finds_a_part_of_a_key(harness: Harness) -> None:
    peer = harness.admit()
    harness.admit()
    (row,) = rows(harness, text=encode_key(peer.key)[10:30].upper())
    assert row["key"] == encode_key(peer.key)


def test_text_finds_a_name(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    peer = harness.admit()
    harness.admit()
    monkeypatch.setitem(NAMES, peer.key, "Alice's phone")
    (row,) = rows(harness, text="alice")
    assert row["name"] == "Alice's phone"


def test_role_selects_rows(harness: Harness) -> None:
    harness.admit()
    harness.listener()
    assert [row["role"] for row in rows(harness, role="listener")] == ["listener"]


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("sort", ["key", "address", "role", "since", "received", "sent", "queued"])
def test_every_column_sorts(sort: str, descending: bool, harness: Harness) -> None:
    near, _ = harness.tunnel()
    near.send(bytes(3000))
    harness.advance(0.1)
    harness.admit(address="192.0.2.1")
    found = rows(harness, sort=sort, descending=descending)
    values = [decode_key(row["key"], 32) if sort == "key" else row[sort] for row in found]
    assert len(values) == 4
    assert values == sorted(values, reverse=descending)


def test_a_list_is_bounded_but_all_are_counted(harness: Harness) -> None:
    for _ in range(5):
        harness.admit()
    found = report(harness, Selection(most=2))["list"]
    assert (len(found["rows"]), found["matching"]) == (2, 5)


def test_keys_and_addresses_with_the_most_come_first(harness: Harness) -> None:
    identity = Identity.generate()
    for address in ("192.0.2.1", "192.0.2.1", "192.0.2.2"):
        harness.admit(identity, address)
    harness.admit(address="192.0.2.3")
    made = report(harness, Selection())
    assert made["keys"][0]["key"] == encode_key(identity.public_key)
    assert made["keys"][0]["connections"] == 3
    assert [each["connections"] for each in made["addresses_in_use"]] == [2, 1, 1]
    assert made["addresses_in_use"][0]["address"] == "192.0.2.1"


def test_ends_are_counted_by_reason(harness: Harness) -> None:
    for _ in range(2):
        harness.admit().connection.close(CloseReason.IDLE)
    (ended,) = report(harness, Selection())["ended"]
    assert ended == {"reason": "idle", "text": "nothing received for too long", "count": 2}
    assert report(harness, Selection())["totals"]["connections"] == 2
