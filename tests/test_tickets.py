"""Tickets, node entries and databases, compared with files of the original programs."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.address import Address
from offset_common.errors import FileError
from offset_common.identity import encode_key, load_identity
from offset_common.tickets import (
    AppTicket,
    IndexTicket,
    NodeDatabase,
    NodeEntry,
    NodeTicket,
    OffsetFile,
    Permissions,
    RelayTicket,
)

FILES = Path(__file__).parent / "vectors" / "files"
RELAY = load_identity(FILES / "relay.ident")
APP = load_identity(FILES / "app.ident")

RECORDED: dict[str, OffsetFile] = {
    "relay.relay": RelayTicket(RELAY.public_key, Address("relay.example.com", 1337)),
    "index.index": IndexTicket(RELAY.public_key, Address("2001:db8::1", 1337)),
    "node.ticket": NodeTicket(RELAY.public_key, Address("127.0.0.1", 8900)),
    "app.ticket": AppTicket(APP.public_key, Permissions(buyer=True, seller=True)),
    "node.rcard": NodeEntry(RELAY.public_key, Address("127.0.0.1", 8900), APP.seed),
    "node.db": NodeDatabase(RELAY.public_key),
}
by_name = pytest.mark.parametrize("name", RECORDED)


@by_name
def test_files_of_the_original_are_loaded_and_saved(name, tmp_path):
    loaded = type(RECORDED[name]).load(FILES / name)
    assert loaded == RECORDED[name]
    loaded.save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == (FILES / name).read_bytes()


def test_repr_does_not_show_the_private_key():
    shown = repr(RECORDED["node.rcard"])
    assert repr(APP.seed) not in shown
    assert encode_key(APP.seed) not in shown


def test_tickets_of_different_kinds_are_not_equal():
    address = Address("relay.example.com", 1337)
    tickets = [kind(RELAY.public_key, address) for kind in (RelayTicket, IndexTicket, NodeTicket)]
    assert len({ticket.to_json() for ticket in tickets}) == 1
    assert tickets[0] != tickets[1] != tickets[2] != tickets[0]


def test_a_bare_ipv6_address_is_written_with_brackets():
    values = {"publicKey": encode_key(RELAY.public_key), "address": "2001:db8::1:1337"}
    ticket = RelayTicket.from_json(json.dumps(values))
    assert ticket.address == Address("2001:db8::1", 1337)
    assert '"[2001:db8::1]:1337"' in ticket.to_json()


def read(kind: type[OffsetFile], values: object) -> OffsetFile:
    return kind.from_json(json.dumps(values), "the.file")


@by_name
def test_unknown_fields_are_ignored(name):
    values = json.loads((FILES / name).read_text())
    assert read(type(RECORDED[name]), {"new": 1, **values, "more": {"a": [None]}}) == RECORDED[name]


def every_field(values: dict[str, object], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in values.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from every_field(value, (*path, key))


ALL_FIELDS = [
    pytest.param(name, path, id=f"{name}-{'.'.join(path)}")
    for name in RECORDED
    for path in every_field(json.loads((FILES / name).read_text()))
]


def recorded_values(name: str, path: tuple[str, ...]) -> tuple[dict[str, object], dict[str, object]]:
    """Return the values of a file, and the object among them that has the field at `path`."""
    values = json.loads((FILES / name).read_text())
    return values, functools.reduce(dict.__getitem__, path[:-1], values)


@pytest.mark.parametrize(("name", "path"), ALL_FIELDS)
def test_a_missing_field_is_reported(name, path):
    values, holder = recorded_values(name, path)
    del holder[path[-1]]
    with pytest.raises(FileError) as caught:
        read(type(RECORDED[name]), values)
    assert (
        str(caught.value)
        == f'the.file: the field "{path[-1]}" is missing; copy the file again, or make a new one'
    )


WRONG = {
    "null": None,
    "a number": 7,
    "a string": "text",
    "a boolean": True,
    "a list": [1],
    "an object": {"a": 1},
}


@pytest.mark.parametrize(("name", "path"), ALL_FIELDS)
def test_a_value_of_another_type_is_reported(name, path):
    values, holder = recorded_values(name, path)
    right = type(holder[path[-1]])
    for what, wrong in WRONG.items():
        if type(wrong) is right:
            continue
        holder[path[-1]] = wrong
        with pytest.raises(FileError) as caught:
            read(type(RECORDED[name]), values)
        assert str(caught.value).startswith(f'the.file: "{path[-1]}" is {what}, not ')


def test_an_invalid_address_is_reported_with_the_file():
    values = {"publicKey": encode_key(RELAY.public_key), "address": "h"}
    with pytest.raises(FileError, match=r"^the\.file: .*the address 'h' has no port"):
        read(RelayTicket, values)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("funder_state", "relays", [{}]),
        ("funder_state", "friends", {"a": {}}),
        ("funder_state", "payments", {"a": {}}),
        ("index_client_config", "index_servers", [{}]),
    ],
)
def test_a_used_database_is_rejected(part, field, value):
    values = json.loads((FILES / "node.db").read_text())
    values[part][field] = value
    with pytest.raises(FileError, match=f'"{field}" is not empty'):
        read(NodeDatabase, values)
