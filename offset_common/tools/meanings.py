"""Why each frame is sent, in one sentence, and the section of docs/protocol.md that tells more."""

from __future__ import annotations

from typing import NamedTuple

from offset_common.tools.frames_seen import RECEIVED, SENT


class Meaning(NamedTuple):
    """One sentence and the number of a section."""

    sentence: str
    section: str


def meaning_of(name: str, direction: str) -> Meaning:
    """Return why a frame is sent.

    Args:
        name: as Frame.name gives it.
        direction: as Frame.direction.
    """
    return _BY_DIRECTION.get((name, direction)) or _BY_NAME[name]


_BY_NAME = {
    "version": Meaning(
        "Each side says which version of the protocol it speaks, at once and without waiting.", "2"
    ),
    "InitConnection listen": Meaning(
        "The first message says what the connection is for: this one takes connects for the node's key.", "7"
    ),
    "InitConnection connect": Meaning(
        "The first message says what the connection is for: to be joined with the node that has this key.",
        "7",
    ),
    "InitConnection accept": Meaning(
        "On a connection of its own the listening node takes the connect of this key: both become a tunnel.",
        "7",
    ),
    "IncomingConnection": Meaning(
        "The relay tells the listener the key, proven to the relay, of the node that wants in.", "7"
    ),
    "RejectConnection": Meaning("The listener turns away the connect of this key.", "7"),
    "keepAlive": Meaning("A sign of life, because nothing was sent for a while.", "6"),
    "Rekey": Meaning("Half of a new key exchange: after an hour the channel gets new keys.", "5.1"),
    "unreadable": Meaning(
        "This is not what it should be: no message of the protocol, or not sealed under the key.", "3"
    ),
}

_BY_DIRECTION = {
    ("ExchangeRandNonce", SENT): Meaning(
        "The node says who it is and whom it expects, and gives the relay a random number to sign.", "4"
    ),
    ("ExchangeRandNonce", RECEIVED): Meaning(
        "The relay says who it is, expects nobody in particular, and gives the node a random number to sign.",
        "4",
    ),
    ("ExchangeDh", SENT): Meaning(
        "The node signs the relay's random number, which proves its key, and adds half of a fresh secret.",
        "4",
    ),
    ("ExchangeDh", RECEIVED): Meaning(
        "The relay signs the node's random number, which proves its key; both halves give keys to seal with.",
        "4",
    ),
    ("tunnel message", SENT): Meaning(
        "Whatever goes into one end of the tunnel, as one message; a connector need not wait for the accept.",
        "7",
    ),
    ("tunnel message", RECEIVED): Meaning(
        "The other end's message as it was, sealed again by the relay for this connection.", "7"
    ),
}
