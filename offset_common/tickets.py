"""The files made from identities: tickets, node entries and node databases.

Source: docs/protocol.md section 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from offset_common.address import Address, parse_ticket_address
from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import UsageError
from offset_common.fields import Fields, json_text
from offset_common.file_kinds import FileKind
from offset_common.files import AnyPath, read_file, write_new_file
from offset_common.identity import (
    KeyForm,
    PrivateKey,
    encode_key,
    encode_private_key,
    read_key,
    read_private_key,
)

AnyFile = TypeVar("AnyFile", bound="OffsetFile")


class OffsetFile(ABC):
    """The base class of the files: conversion to and from JSON, load and save."""

    kind: ClassVar[FileKind]
    private: ClassVar[bool] = False  # contains a private key

    @abstractmethod
    def to_values(self) -> dict[str, object]:
        """Return the JSON object, its keys in file order."""

    @classmethod
    @abstractmethod
    def from_fields(cls: type[AnyFile], fields: Fields) -> AnyFile:
        """Parse a JSON object; raise FileError if it is not this kind of file."""

    def to_json(self) -> str:
        """Return the text of the file, byte for byte as the original programs write it."""
        return json_text(self.to_values())

    @classmethod
    def from_json(cls: type[AnyFile], text: str, source: object = "the text") -> AnyFile:
        """Parse the text of a file or QR code.

        Args:
            text: the JSON.
            source: its name in error messages.

        Raises:
            FileError: the text is not this kind of file.
        """
        return cls.from_fields(Fields.parse(source, text, cls.kind))

    @classmethod
    def load(cls: type[AnyFile], path: AnyPath) -> AnyFile:
        """Load a file; raise FileError if it cannot be read or is not this kind of file."""
        return cls.from_json(read_file(path), path)

    def save(self, path: AnyPath) -> None:
        """Write a new file; raise FileError if it exists or cannot be written."""
        write_new_file(path, self.to_json(), private=self.private)


@dataclass(frozen=True)
class AddressTicket(OffsetFile):
    """A public key, and the address of the program that owns it.

    Args:
        public_key: 32 bytes.
        address: host and port.
    """

    kind = FileKind.TICKET

    public_key: bytes
    address: Address

    def to_values(self) -> dict[str, object]:
        return {"publicKey": encode_key(self.public_key), "address": str(self.address)}

    @classmethod
    def from_fields(cls: type[AnyTicket], fields: Fields) -> AnyTicket:
        public_key = read_key(fields, "publicKey", PUBLIC_KEY_SIZE)
        return cls(public_key, _read_address(fields, "address"))


AnyTicket = TypeVar("AnyTicket", bound=AddressTicket)


class RelayTicket(AddressTicket):
    """A node uses a relay with this ticket. Its file name ends in .relay."""


class IndexTicket(AddressTicket):
    """A node uses an index server with this ticket. Its file name ends in .index."""


class NodeTicket(AddressTicket):
    """An app connects to a node with this ticket. Its file name ends in .ticket."""


@dataclass(frozen=True)
class Permissions:
    """The permissions of an app at a node."""

    routes: bool = False
    buyer: bool = False
    seller: bool = False
    config: bool = False


@dataclass(frozen=True)
class AppTicket(OffsetFile):
    """A node admits an app with this ticket. Its file name ends in .ticket.

    Args:
        public_key: 32 bytes, the app's key.
        permissions: the permissions that the node grants.
    """

    kind = FileKind.APP_TICKET

    public_key: bytes
    permissions: Permissions

    def to_values(self) -> dict[str, object]:
        return {"publicKey": encode_key(self.public_key), "permissions": dict(vars(self.permissions))}

    @classmethod
    def from_fields(cls, fields: Fields) -> AppTicket:
        public_key = read_key(fields, "publicKey", PUBLIC_KEY_SIZE)
        flags = fields.object("permissions")
        names = ("routes", "buyer", "seller", "config")
        return cls(public_key, Permissions(**{name: flags.get(name, bool) for name in names}))


@dataclass(frozen=True)
class NodeEntry(OffsetFile):
    """An app uses a node with this entry, which includes the app's private key. Its name ends in .rcard.

    Args:
        node_public_key: 32 bytes.
        node_address: host and port.
        app_private_key: 32 bytes.
        key_form: how the file stores that key.
    """

    kind = FileKind.NODE_ENTRY
    private = True

    node_public_key: bytes
    node_address: Address
    app_private_key: bytes = field(repr=False)
    key_form: KeyForm = KeyForm.SEED

    def to_values(self) -> dict[str, object]:
        return {
            "nodePublicKey": encode_key(self.node_public_key),
            "nodeAddress": str(self.node_address),
            "appPrivateKey": encode_private_key(PrivateKey(self.app_private_key, self.key_form)),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> NodeEntry:
        public_key = read_key(fields, "nodePublicKey", PUBLIC_KEY_SIZE)
        address = _read_address(fields, "nodeAddress")
        private_key = read_private_key(fields, "appPrivateKey")
        return cls(public_key, address, private_key.seed, private_key.form)


@dataclass(frozen=True)
class NodeDatabase(OffsetFile):
    """The database of a new node. Loading one that has friends, relays or payments is an error.

    Args:
        local_public_key: 32 bytes, the node's key.
    """

    kind = FileKind.DATABASE

    local_public_key: bytes

    def to_values(self) -> dict[str, object]:
        funder_state = {
            "local_public_key": encode_key(self.local_public_key),
            "relays": [],
            "friends": {},
            "open_invoices": {},
            "open_transactions": {},
            "payments": {},
        }
        return {"funder_state": funder_state, "index_client_config": {"index_servers": []}}

    @classmethod
    def from_fields(cls, fields: Fields) -> NodeDatabase:
        funder_state = fields.object("funder_state")
        local_public_key = read_key(funder_state, "local_public_key", PUBLIC_KEY_SIZE)
        funder_state.expect_empty("relays", list)
        for name in ("friends", "open_invoices", "open_transactions", "payments"):
            funder_state.expect_empty(name, dict)
        fields.object("index_client_config").expect_empty("index_servers", list)
        return cls(local_public_key)


def _read_address(fields: Fields, name: str) -> Address:
    try:
        return parse_ticket_address(fields.get(name, str))
    except UsageError as error:
        raise fields.error(str(error)) from error
