"""The messages between two hosts: one order from the arriving host, one answer from the home.

    connect    a peer of the arriving host connects to a listener of the home
    accept     a peer of the arriving host accepts a connect that waits at the home
    taken      a listener of the arriving host replaces one of the home; there is no answer

After the answer "joined", the connection carries the messages of the tunnel.

Source: docs/fleet.md.
"""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Any, NamedTuple, Optional

from offset_common.errors import DecodeError, UsageError
from offset_common.fleet.entries import KEY_SIZE
from offset_common.identity import decode_key, encode_key
from offset_common.relay.addresses import PeerAddress
from offset_common.relay.close_reason import CloseReason
from offset_common.wire.messages import InitRole

VERSION = 1
MAX_SIZE = 1024  # bytes of an order or answer
MAX_EPOCH = 10**16
MAX_AGE = 3600.0  # seconds
MAX_TEXT = 200  # characters of each address
TAKEN = "taken"
ROLES = {"connect": InitRole.CONNECT, "accept": InitRole.ACCEPT}


class Order(NamedTuple):
    """A request from an arriving host.

    Args:
        kind: connect, accept or taken.
        key: the peer's public key; for `taken`, the listener's.
        other: the key at the other end of the tunnel; empty for `taken`.
        address: the peer's address; None for `taken`.
        age: seconds since the peer asked.
        epoch: the epoch of the new listener, for `taken`.
    """

    kind: str
    key: bytes
    other: bytes = b""
    address: Optional[PeerAddress] = None
    age: float = 0.0
    epoch: int = 0

    @property
    def role(self) -> InitRole:
        """The role that the peer asked for."""
        return ROLES[self.kind]

    def encode(self) -> bytes:
        """Return the message."""
        fields: dict[str, Any] = {"version": VERSION, "kind": self.kind, "key": encode_key(self.key)}
        if self.kind == TAKEN:
            fields["epoch"] = self.epoch
        else:
            assert self.address is not None
            fields.update(other=encode_key(self.other), address=self.address, age=round(self.age, 6))
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, message: bytes) -> Order:
        """Return the order in a message.

        Raises:
            DecodeError: it is invalid, or from another version of the program.
        """
        fields = _read(message)
        try:
            kind, key = fields["kind"], decode_key(fields["key"], KEY_SIZE)
            if kind == TAKEN:
                epoch = fields["epoch"]
                if not isinstance(epoch, int) or isinstance(epoch, bool) or not 0 <= epoch < MAX_EPOCH:
                    raise DecodeError("an invalid epoch")
                return cls(kind, key, epoch=epoch)
            if kind not in ROLES:
                raise DecodeError("an order of an unknown kind")
            address = fields["address"]
            if not isinstance(address, list) or not all(_is_short_text(each) for each in address):
                raise DecodeError("an address that is not text")
            text, prefix, host = address
            ip_address(host)
            age = fields["age"]
            if not isinstance(age, (int, float)) or isinstance(age, bool):
                raise DecodeError("an age that is not a number")
            age = min(max(0.0, float(age)), MAX_AGE)
            return cls(kind, key, decode_key(fields["other"], KEY_SIZE), PeerAddress(text, prefix, host), age)
        except (KeyError, TypeError, ValueError, OverflowError, UsageError):
            raise DecodeError("an incomplete order") from None


class Answer(NamedTuple):
    """The answer of the home: joined, or why not.

    Args:
        reason: why there is no tunnel; None if there is one.
        detail: more about the reason, for the log.
        not_here: the home has no such listener; the arriving host may look again.
    """

    reason: Optional[CloseReason] = None
    detail: str = ""
    not_here: bool = False

    def encode(self) -> bytes:
        """Return the message."""
        reason = None if self.reason is None else self.reason.name
        fields = {"version": VERSION, "reason": reason, "detail": self.detail, "not_here": self.not_here}
        return json.dumps(fields).encode()

    @classmethod
    def decode(cls, message: bytes) -> Answer:
        """Return the answer in a message.

        Raises:
            DecodeError: it is invalid.
        """
        fields = _read(message)
        name, detail = fields.get("reason"), fields.get("detail", "")
        if not isinstance(name, (str, type(None))) or not isinstance(detail, str):
            raise DecodeError("an invalid answer")
        # A later version may have more reasons.
        reason = None if name is None else CloseReason.__members__.get(name, CloseReason.PARTNER_ENDED)
        return cls(reason, detail[:MAX_TEXT], fields.get("not_here") is True)


def _is_short_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _read(message: bytes) -> dict[str, Any]:
    if len(message) > MAX_SIZE:
        raise DecodeError("a message too long for an order or answer")
    try:
        fields = json.loads(message)
    except (ValueError, RecursionError):
        raise DecodeError("a message that is not an order or answer") from None
    if not isinstance(fields, dict) or fields.get("version") != VERSION:
        raise DecodeError(f"a message between hosts that is not of version {VERSION}; upgrade all hosts")
    return fields
