"""The files that are made from identities: tickets, node entries, node databases.

Source: docs/protocol.md section 8.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar, TypeVar

from offset_common.address import Address, parse_address
from offset_common.constants import PRIVATE_KEY_SIZE, PUBLIC_KEY_SIZE
from offset_common.errors import UsageError
from offset_common.files import AnyPath, Fields, json_text, read_file, write_new_file
from offset_common.identity import encode_key, read_key

AnyFile = TypeVar("AnyFile", bound="OffsetFile")


class OffsetFile(ABC):
    """What all the files have in common: JSON both ways, load and save."""

    private: ClassVar[bool] = False  # holds a private key

    @abstractmethod
    def to_values(self) -> dict[str, object]:
        """The JSON object, its keys in the order of the file."""

    @classmethod
    @abstractmethod
    def from_fields(cls: type[AnyFile], fields: Fields) -> AnyFile:
        """Read the JSON object; FileError if it is not this kind of file."""

    def to_json(self) -> str:
        """The text of the file, byte for byte as the original programs write it."""
        return json_text(self.to_values())

    @classmethod
    def from_json(cls: type[AnyFile], text: str, source: object = "the text") -> AnyFile:
        """Read the text of a file, from wherever it came.

        Args:
            text: the JSON; a QR code of a relay holds the same.
            source: what an error names.

        Raises:
            FileError: it is not this kind of file.
        """
        return cls.from_fields(Fields.parse(source, text))

    @classmethod
    def load(cls: type[AnyFile], path: AnyPath) -> AnyFile:
        """Read a file; FileError if it cannot be read or is not this kind of file."""
        return cls.from_json(read_file(path), path)

    def save(self, path: AnyPath) -> None:
        """Write a new file; FileError if it exists or cannot be written."""
        write_new_file(path, self.to_json(), private=self.private)


@dataclass(frozen=True)
class AddressTicket(OffsetFile):
    """A public key, and where whoever has its private key can be reached.

    Args:
        public_key: 32 bytes.
        address: host and port.
    """

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
    """What a node needs to use a relay: the file ends in .relay."""


class IndexTicket(AddressTicket):
    """What a node needs to use an index server: the file ends in .index."""


class NodeTicket(AddressTicket):
    """What an app needs to reach a node: the file ends in .ticket."""


@dataclass(frozen=True)
class Permissions:
    """What an app may do with a node."""

    routes: bool = False
    buyer: bool = False
    seller: bool = False
    config: bool = False


@dataclass(frozen=True)
class AppTicket(OffsetFile):
    """What a node needs to let an app in: the file ends in .ticket.

    Args:
        public_key: 32 bytes, the app's.
        permissions: what the app may do.
    """

    public_key: bytes
    permissions: Permissions

    def to_values(self) -> dict[str, object]:
        return {"publicKey": encode_key(self.public_key), "permissions": dict(vars(self.permissions))}

    @classmethod
    def from_fields(cls, fields: Fields) -> AppTicket:
        public_key = read_key(fields, "publicKey", PUBLIC_KEY_SIZE)
        flags = fields.object("permissions")
        names = ("routes", "buyer", "seller", "config")
        return cls(public_key, Permissions(**{name: flags.flag(name) for name in names}))


@dataclass(frozen=True)
class NodeEntry(OffsetFile):
    """All that an app needs to use a node, its own private key included: the file ends in .rcard.

    Args:
        node_public_key: 32 bytes.
        node_address: host and port.
        app_private_key: 32 bytes.
    """

    private = True

    node_public_key: bytes
    node_address: Address
    app_private_key: bytes = field(repr=False)

    def to_values(self) -> dict[str, object]:
        return {
            "nodePublicKey": encode_key(self.node_public_key),
            "nodeAddress": str(self.node_address),
            "appPrivateKey": encode_key(self.app_private_key),
        }

    @classmethod
    def from_fields(cls, fields: Fields) -> NodeEntry:
        return cls(
            read_key(fields, "nodePublicKey", PUBLIC_KEY_SIZE),
            _read_address(fields, "nodeAddress"),
            read_key(fields, "appPrivateKey", PRIVATE_KEY_SIZE),
        )


@dataclass(frozen=True)
class NodeDatabase(OffsetFile):
    """The database of a node that has not run yet; one that a node has used is refused.

    Args:
        local_public_key: 32 bytes, the node's.
    """

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


def load_relay_ticket(path: AnyPath) -> RelayTicket:
    """Read a relay ticket; FileError if it cannot be read or is not one."""
    return RelayTicket.load(path)


def _read_address(fields: Fields, name: str) -> Address:
    try:
        return parse_address(fields.text(name))
    except UsageError as error:
        raise fields.error(str(error)) from error
