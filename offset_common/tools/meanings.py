"""The purpose of each frame in one sentence, with the section of docs/protocol.md that explains it."""

from __future__ import annotations

from typing import NamedTuple

from offset_common.constants import KEEPALIVE_INTERVAL
from offset_common.tools.frame_assembler import RECEIVED, SENT


class Meaning(NamedTuple):
    """A sentence and a section number."""

    sentence: str
    section: str


def meaning_of(name: str, direction: str) -> Meaning:
    """Return the purpose of a frame.

    Args:
        name: a Frame.name.
        direction: SENT or RECEIVED.
    """
    return _BY_DIRECTION.get((name, direction)) or _BY_NAME[name]


_BY_NAME = {
    "version": Meaning("Each side sends its protocol version at once, without waiting for the other.", "2"),
    "InitConnection listen": Meaning(
        "The first message defines the role of the connection: this one receives connects to the node's key.",
        "7",
    ),
    "InitConnection connect": Meaning(
        "The first message defines the role of the connection: this one asks for the node with this key.", "7"
    ),
    "InitConnection accept": Meaning(
        "On a new connection, the listening node accepts the connect from this key; they become a tunnel.",
        "7",
    ),
    "IncomingConnection": Meaning(
        "The relay announces a connect to the listener, with the verified key of the node that connects.", "7"
    ),
    "RejectConnection": Meaning("The listener rejects the connect from this key.", "7"),
    "keepAlive": Meaning(
        f"Keeps the connection open after {KEEPALIVE_INTERVAL:.0f} s without another message.", "6"
    ),
    "Rekey": Meaning("One half of a new key exchange; a channel changes its keys every hour.", "5.1"),
    "unreadable": Meaning(
        "Not a valid message, or not encrypted under the channel's key; the connection is closed.", "3"
    ),
}

_BY_DIRECTION = {
    ("ExchangeRandNonce", SENT): Meaning(
        "The node sends its key, the key that it expects of the relay, and a nonce for the relay to sign.",
        "4",
    ),
    ("ExchangeRandNonce", RECEIVED): Meaning(
        "The relay sends its key and a nonce for the node to sign; it expects no particular key.", "4"
    ),
    ("ExchangeDh", SENT): Meaning(
        "The node signs the relay's nonce, which proves its key, and sends its half of a key exchange.", "4"
    ),
    ("ExchangeDh", RECEIVED): Meaning(
        "The relay signs the node's nonce, which proves its key; both halves give the encryption keys.", "4"
    ),
    ("tunnel message", SENT): Meaning(
        "Data for the other end of the tunnel; a connector may send it before the accept.", "7"
    ),
    ("tunnel message", RECEIVED): Meaning(
        "Data from the other end, unchanged; the relay encrypted it again for this connection.", "7"
    ),
}
