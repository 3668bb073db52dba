"""What is in a file of Offset, without a private key.

Source: section 8 of docs/protocol.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple, Optional

from offset_common.constants import PRIVATE_KEY_SIZE, PUBLIC_KEY_SIZE
from offset_common.errors import FileError
from offset_common.files import AnyPath, Fields, read_file
from offset_common.identity import Identity, encode_key, others_can_read, read_key
from offset_common.tickets import AddressTicket, AppTicket, NodeDatabase, NodeEntry, RelayTicket
from offset_common.tools.terminal import printable


class Shown(NamedTuple):
    """What there is to say about a file.

    Args:
        kind: what it is, as the rest of a sentence that begins with "This is".
        facts: names and values, in the order to show them in.
        private: whether it holds a private key.
        ticket: the ticket, where it is one with an address.
    """

    kind: str
    facts: list[tuple[str, str]]
    private: bool = False
    ticket: Optional[AddressTicket] = None


def look_into(path: AnyPath) -> Shown:
    """Find out what kind of file this is, and what it says.

    Raises:
        FileError: it cannot be read, or is none of the files of Offset.
    """
    fields = Fields.parse(path, read_file(path))
    for name, is_there, read in _KINDS:
        if _has(name, is_there, fields):
            return read(fields)
    raise FileError(path, "is no file of Offset: it has none of the fields that would tell its kind")


def describe(path: AnyPath, shown: Shown) -> str:
    """Return the lines for a person.

    Args:
        path: the file, as the person named it.
        shown: what `look_into` found in it.
    """
    name = printable(path)
    lines = [f"{name}: {shown.kind}"]
    lines += [f"  {label:<14}  {value}" for label, value in shown.facts]
    if shown.private:
        lines.append("  A private key is in it, which is not shown: keep the file to yourself.")
        if others_can_read(path):
            lines.append(f"  Others on this machine can read it! Mend that with: chmod 600 {name}")
    return "\n".join(lines)


def _identity(fields: Fields) -> Shown:
    identity = Identity.from_seed(read_key(fields, "privateKey", PRIVATE_KEY_SIZE))
    return Shown("an identity", [("public key", encode_key(identity.public_key))], private=True)


def _node_entry(fields: Fields) -> Shown:
    entry = NodeEntry.from_fields(fields)
    app = Identity.from_seed(entry.app_private_key)
    facts = [
        ("node's key", encode_key(entry.node_public_key)),
        ("node's address", str(entry.node_address)),
        ("app's key", encode_key(app.public_key)),
    ]
    return Shown("a node entry: all that one app needs to use a node", facts, private=True)


def _app_ticket(fields: Fields) -> Shown:
    ticket = AppTicket.from_fields(fields)
    granted = [name for name, given in vars(ticket.permissions).items() if given]
    facts = [
        ("public key", encode_key(ticket.public_key)),
        ("permissions", ", ".join(granted) or "none: it may only look on"),
    ]
    return Shown("an app ticket", facts)


# Relay, index and node tickets hold the same: only the file's name tells them apart.
_ENDINGS = {
    ".relay": "a relay ticket",
    ".index": "an index server's ticket",
    ".ticket": "a node ticket",
}
_ANY_ENDING = (
    "a ticket, of a relay, an index server or a node: they hold the same,"
    " and the ending of the name (.relay, .index, .ticket) would tell"
)


def _address_ticket(fields: Fields) -> Shown:
    ticket = RelayTicket.from_fields(fields)
    kind = _ENDINGS.get(Path(str(fields.source)).suffix.lower(), _ANY_ENDING)
    facts = [("public key", encode_key(ticket.public_key)), ("address", str(ticket.address))]
    return Shown(kind, facts, ticket=ticket)


def _node_database(fields: Fields) -> Shown:
    key = read_key(fields.object("funder_state"), "local_public_key", PUBLIC_KEY_SIZE)
    try:
        NodeDatabase.from_fields(fields)
        kind = "the database of a node that has not run yet"
    except FileError:
        kind = "the database of a node"
    return Shown(kind, [("public key", encode_key(key))])


# The field that only this kind of file has, or has before the later ones; and how it is read.
_Getter = Callable[[Fields, str], object]
_KINDS: list[tuple[str, _Getter, Callable[[Fields], Shown]]] = [
    ("privateKey", Fields.text, _identity),
    ("appPrivateKey", Fields.text, _node_entry),
    ("permissions", Fields.object, _app_ticket),
    ("address", Fields.text, _address_ticket),
    ("funder_state", Fields.object, _node_database),
]


def _has(name: str, getter: _Getter, fields: Fields) -> bool:
    try:
        getter(fields, name)
    except FileError:
        return False
    return True
