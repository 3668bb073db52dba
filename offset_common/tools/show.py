"""Describe the content of an Offset file, without its private key.

Source: section 8 of docs/protocol.md.
"""

from __future__ import annotations

from pathlib import Path
from typing import Callable, NamedTuple, Optional

from offset_common.command_line import printable
from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import FileError
from offset_common.fields import Fields
from offset_common.file_access import exposure
from offset_common.file_kinds import FileKind
from offset_common.files import AnyPath, read_file
from offset_common.identity import Identity, encode_key, read_key, read_private_key
from offset_common.tickets import AddressTicket, AppTicket, NodeDatabase, NodeEntry, RelayTicket


class Description(NamedTuple):
    """The public content of a file.

    Args:
        kind: the kind of file, with an article.
        facts: labels and values, in display order.
        private: whether the file contains a private key.
        ticket: the ticket, if it is one with an address.
    """

    kind: str
    facts: list[tuple[str, str]]
    private: bool = False
    ticket: Optional[AddressTicket] = None


def describe(path: AnyPath) -> Description:
    """Detect the kind of a file and return its public content.

    Raises:
        FileError: the file cannot be read, or is not an Offset file.
    """
    fields = Fields.parse(path, read_file(path))
    kind = fields.kind()
    if kind is None:
        raise FileError(path, "not an Offset file: it has none of the known fields; check its name")
    if kind not in _READERS:
        raise FileError(path, f"the file is {kind.value}; open it in the app, stmgr cannot show it")
    return _READERS[kind](fields)


def description_lines(path: AnyPath, description: Description) -> list[str]:
    """Return a description as lines of text.

    Args:
        path: the file, as given on the command line.
        description: the result of `describe`.
    """
    name = printable(str(path))
    lines = [f"{name}: {description.kind}"]
    lines += [f"  {label:<14}  {value}" for label, value in description.facts]
    if description.private:
        lines.append("  The file also contains a private key, which is not shown. Keep it secret.")
        warning = exposure(path)
        if warning:
            lines.append(f"  Warning: {printable(str(warning))}")
    return lines


def _identity(fields: Fields) -> Description:
    key = read_private_key(fields, "privateKey")
    facts = [
        ("public key", encode_key(Identity.from_seed(key.seed).public_key)),
        ("key form", key.form.value),
    ]
    return Description("an identity", facts, private=True)


def _node_entry(fields: Fields) -> Description:
    entry = NodeEntry.from_fields(fields)
    app = Identity.from_seed(entry.app_private_key)
    facts = [
        ("node's key", encode_key(entry.node_public_key)),
        ("node's address", str(entry.node_address)),
        ("app's key", encode_key(app.public_key)),
        ("key form", entry.key_form.value),
    ]
    return Description("a node entry, with which an app can use a node", facts, private=True)


def _app_ticket(fields: Fields) -> Description:
    ticket = AppTicket.from_fields(fields)
    granted = [name for name, given in vars(ticket.permissions).items() if given]
    facts = [
        ("public key", encode_key(ticket.public_key)),
        ("permissions", ", ".join(granted) or "none (read-only)"),
    ]
    return Description("an app ticket", facts)


# Relay, index and node tickets have the same fields: only the file extension differs.
_EXTENSIONS = {".relay": "a relay ticket", ".index": "an index server's ticket", ".ticket": "a node ticket"}
_ANY_TICKET = "a ticket of a relay, index server or node (they differ only in the file extension)"


def _address_ticket(fields: Fields) -> Description:
    ticket = RelayTicket.from_fields(fields)
    kind = _EXTENSIONS.get(Path(str(fields.source)).suffix.lower(), _ANY_TICKET)
    facts = [("public key", encode_key(ticket.public_key)), ("address", str(ticket.address))]
    return Description(kind, facts, ticket=ticket)


def _node_database(fields: Fields) -> Description:
    key = read_key(fields.object("funder_state"), "local_public_key", PUBLIC_KEY_SIZE)
    try:
        NodeDatabase.from_fields(fields)
        kind = "the database of a node that has not run yet"
    except FileError:
        kind = "the database of a node"
    return Description(kind, [("public key", encode_key(key))])


_READERS: dict[FileKind, Callable[[Fields], Description]] = {
    FileKind.IDENTITY: _identity,
    FileKind.NODE_ENTRY: _node_entry,
    FileKind.APP_TICKET: _app_ticket,
    FileKind.TICKET: _address_ticket,
    FileKind.DATABASE: _node_database,
}
