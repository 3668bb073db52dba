"""Recognize files: the kinds of Offset files, and others that people confuse with them.

Source: docs/protocol.md section 8. Releases up to 0.1.2 wrote TOML; the mobile app also shares invoices,
commitments and friend cards.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Optional


class FileKind(enum.Enum):
    """The kinds of JSON files. The value describes the kind in a sentence, with its article."""

    IDENTITY = "an identity"
    NODE_ENTRY = "a node entry"
    APP_TICKET = "an app ticket"
    TICKET = "a ticket of a relay, index server or node"
    DATABASE = "the database of a node"
    FRIEND = "a friend card of the mobile app"
    COMMIT = "a payment commitment of the mobile app"
    INVOICE = "an invoice of the mobile app"


# A file is of the first kind whose fields it has, so the order matters.
_FIELDS: dict[FileKind, tuple[tuple[str, type], ...]] = {
    FileKind.IDENTITY: (("privateKey", str),),
    FileKind.NODE_ENTRY: (("appPrivateKey", str),),
    FileKind.APP_TICKET: (("permissions", dict),),
    FileKind.FRIEND: (("publicKey", str), ("relays", list)),
    FileKind.TICKET: (("address", str),),
    FileKind.DATABASE: (("funder_state", dict),),
    FileKind.COMMIT: (("responseHash", str),),
    FileKind.INVOICE: (("invoiceId", str),),
}

_MAKES = {
    FileKind.IDENTITY: "give the .ident file that stmgr.py gen-ident made",
    FileKind.NODE_ENTRY: "give the .rcard file that stmgr.py node-entry made",
    FileKind.APP_TICKET: "give the .ticket file that stmgr.py app-ticket made",
    FileKind.TICKET: "give the .relay, .index or .ticket file that has the address",
    FileKind.DATABASE: "give the file that stmgr.py init-node-db made",
}


def kind_of_fields(values: Mapping[str, object]) -> Optional[FileKind]:
    """Return the kind of file whose fields a JSON object has, or None if there is no such kind."""
    for kind, fields in _FIELDS.items():
        if all(type(values.get(name)) is of for name, of in fields):
            return kind
    return None


def advice_for(wanted: FileKind, found: FileKind) -> str:
    """Return what to do if a file is not of the wanted kind, as the end of a sentence."""
    if wanted is FileKind.TICKET and found is FileKind.IDENTITY:
        return "make its ticket, for example with stmgr.py relay-ticket; keep the identity secret"
    return _MAKES[wanted]


def kind_of_text(text: str) -> Optional[str]:
    """Say what a file that is not JSON is, and what to do; return None if it looks like damaged JSON."""
    found = re.findall(r"^[ \t]*(private_key|public_key)[ \t]*=", text, re.MULTILINE)
    if "private_key" in found:
        return (
            "the file is a TOML identity of a release up to 0.1.2, which later releases cannot read;"
            ' write its key into a new file as {"privateKey": "..."}'
        )
    if "public_key" in found:
        return (
            "the file is a TOML ticket of a release up to 0.1.2, which later releases cannot read;"
            " ask for a new ticket, or make one from the identity with stmgr.py"
        )
    start = text.lstrip()[:200].lower()
    for beginning, sentence in _TEXTS:
        if start.startswith(beginning):
            return sentence
    return None if start.startswith(("{", "[")) else "the file is not an Offset file; check its name"


def kind_of_bytes(content: bytes) -> Optional[str]:
    """Identify a file that is not UTF-8 text; return what it is and what to do, or None if it may be text.

    Args:
        content: the whole file, or its first kilobyte or more.
    """
    for beginning, sentence in _BINARIES:
        if content.startswith(beginning):
            return sentence
    if b"\0" in content[:1024]:
        # JSON starts with ASCII characters: in UTF-16 and UTF-32, each has at least one zero byte next to it.
        wide = re.match(rb"(?:\0{1,3}[\t\n\r -~]|[\t\n\r -~]\0{1,3})", content)
        return _WIDE if wide else "the file is binary, not an Offset file; check its name"
    return None


_WIDE = "the file is in UTF-16 or UTF-32 encoding; save it as UTF-8 in the editor"
_PICTURE = "the file is a picture; give the ticket file, or scan the picture with the mobile app"
_ARCHIVE = "the file is an archive or compressed; unpack it first"

_BINARIES = (
    (b"\xff\xfe", _WIDE),
    (b"\xfe\xff", _WIDE),
    (b"\0\0\xfe\xff", _WIDE),
    (b"\x89PNG", _PICTURE),
    (b"\xff\xd8\xff", _PICTURE),
    (b"PK\x03\x04", _ARCHIVE),
    (b"\x1f\x8b", _ARCHIVE),
    (b"SQLite format 3\0", "the file is an SQLite database, not an Offset file; check its name"),
    (
        b"\x30\x53\x02\x01\x01\x30\x05\x06\x03\x2b\x65\x70",
        "the file is a bare PKCS#8 key of a release before 0.1.0;"
        ' write it as base64 (URL alphabet, no padding) into a new file, as {"privateKey": "..."}',
    ),
)

_TEXTS = (
    ("<svg", _PICTURE),
    ("<?xml", _PICTURE),
    ("<!doctype html", "the file is a web page; download the file itself"),
    ("<html", "the file is a web page; download the file itself"),
    (
        "-----begin",
        "the file is a key in PEM form, which Offset does not use; make one with stmgr.py gen-ident",
    ),
    ("ssh-", "the file is an SSH key, which Offset does not use; make one with stmgr.py gen-ident"),
)
