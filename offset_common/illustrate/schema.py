"""The structs of the protocol as data, to explain messages byte by byte.

wire/messages.py decodes messages; this table only names what it reads. A test checks that both find the same.

Source: section 3.1 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional, Union


@dataclass(frozen=True)
class Fixed:
    """A byte string of fixed size: a pointer to a struct with one pointer, `inner`, to a struct of words."""

    name: str
    size: int  # bytes


@dataclass(frozen=True)
class Data:
    """A byte string of any size."""

    name: str


@dataclass(frozen=True)
class Struct:
    """A struct.

    Args:
        name: the name of its type.
        union: the choices of its union by discriminant; empty if it has none.
        union_name: the name of the union, if it has one.
        pointers: the targets of its pointers, by discriminant, or under None if they do not depend on it.
        field: the name of the field that it is in.
    """

    name: str
    union: dict[int, str] = field(default_factory=dict)
    pointers: dict[Optional[int], tuple[Union[Fixed, Data, Struct], ...]] = field(default_factory=dict)
    field: str = ""
    union_name: str = ""


REKEY = Struct("Rekey", {}, {None: (Fixed("dhPublicKey", 32), Fixed("keySalt", 32))}, "rekey")
_NONCE_AND_KEY = (Fixed("randNonce", 16), Fixed("srcPublicKey", 32))

MESSAGES = {
    each.name: each
    for each in (
        Struct(
            "ExchangeRandNonce",
            {0: "empty", 1: "publicKey"},
            {0: _NONCE_AND_KEY, 1: (*_NONCE_AND_KEY, Fixed("optDestPublicKey", 32))},
            union_name="optDestPublicKey",
        ),
        Struct(
            "ExchangeDh",
            {},
            {
                None: (
                    Fixed("dhPublicKey", 32),
                    Fixed("randNonce", 16),
                    Fixed("keySalt", 32),
                    Fixed("signature", 64),
                )
            },
        ),
        Struct(
            "ChannelMessage",
            {},
            {
                None: (
                    Data("randPadding"),
                    Struct(
                        "ChannelContent",
                        {0: "rekey", 1: "user"},
                        {0: (REKEY,), 1: (Data("user"),)},
                        "content",
                    ),
                )
            },
        ),
        Struct("KaMessage", {0: "keepAlive", 1: "message"}, {0: (), 1: (Data("message"),)}),
        Struct(
            "InitConnection",
            {0: "listen", 1: "accept", 2: "connect"},
            {0: (), 1: (Fixed("publicKey", 32),), 2: (Fixed("publicKey", 32),)},
        ),
        Struct("RejectConnection", {}, {None: (Fixed("publicKey", 32),)}),
        Struct("IncomingConnection", {}, {None: (Fixed("publicKey", 32),)}),
    )
}
"""The root struct of each message."""
