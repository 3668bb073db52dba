"""Dissect a frame into its layers, and each layer into named parts with their bytes.

Source: sections 1 to 7 of docs/protocol.md; each Section names its own.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from offset_common.constants import ENCRYPTION_OVERHEAD, FRAME_LENGTH_SIZE, NONCE_SIZE, TAG_SIZE
from offset_common.identity import encode_key
from offset_common.tools.frame_assembler import Frame, Layer, TunnelMessage, Unreadable, Version
from offset_common.tools.terminal import Style
from offset_common.wire.capnp import fixed_words
from offset_common.wire.fields import Message
from offset_common.wire.messages import (
    ChannelMessage,
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    KaMessage,
    RejectConnection,
    Rekey,
)
from offset_common.wire.packing import WORD_SIZE


class Part(NamedTuple):
    """A named part of a layer.

    Args:
        name: the name of a protocol field, or a description.
        data: bytes; empty if only the note matters.
        note: a readable form of the value.
        style: the style on a terminal.
    """

    name: str
    data: bytes
    note: str = ""
    style: Optional[Style] = None


class Section(NamedTuple):
    """One layer of a frame.

    Args:
        title: the name of the layer.
        section: a section number of docs/protocol.md.
        parts: in the order of the bytes, or of the fields.
    """

    title: str
    section: str
    parts: list[Part]


def dissect(frame: Frame) -> list[Section]:
    """Return the layers of a frame, outermost first."""
    outer = frame.layers[0]
    length = len(frame.payload)
    header = Part("length", length.to_bytes(FRAME_LENGTH_SIZE, "big"), f"{length} bytes follow", Style.LENGTH)
    sections = [Section("frame", "1", [header, *_payload_parts(frame.payload, outer)])]
    for layer in frame.layers:
        sections += _sections_of(layer)
    return sections


def _payload_parts(payload: bytes, outer: Layer) -> list[Part]:
    if isinstance(outer, Version):
        return [Part("payload", payload, f"protocol version {outer.number}")]
    if isinstance(outer, ChannelMessage) and len(payload) >= ENCRYPTION_OVERHEAD:
        nonce, tag = payload[:NONCE_SIZE], payload[-TAG_SIZE:]
        number = int.from_bytes(nonce, "little")
        return [
            Part("nonce", nonce, f"message {number} under this key", Style.NONCE),
            Part("ciphertext", payload[NONCE_SIZE:-TAG_SIZE], "the encrypted ChannelMessage"),
            Part("tag", tag, "authenticates the ciphertext", Style.TAG),
        ]
    if isinstance(outer, (ExchangeRandNonce, ExchangeDh)):
        return packed_parts(payload, outer)
    return [Part("payload", payload)]


def _sections_of(layer: Layer) -> list[Section]:
    if isinstance(layer, (Version, Unreadable)):
        return []
    if isinstance(layer, TunnelMessage):
        note = ascii(layer.data.decode("utf-8", "replace"))[1:-1]
        return [Section("data between the nodes", "7", [Part("bytes", layer.data, note)])]
    if isinstance(layer, ChannelMessage):
        return _channel_message(layer)
    if isinstance(layer, KaMessage):
        if layer.message is None:
            return [Section("KaMessage", "6", [Part("keepAlive", b"", "no content")])]
        note = f"{len(layer.message)} bytes of the layer above"
        return [Section("KaMessage", "6", [Part("message", layer.message, note)])]
    if isinstance(layer, InitConnection):
        name = layer.role.name.lower()
        key = layer.public_key
        return [Section("InitConnection", "7", [_key(name, key) if key else Part(name, b"", "no content")])]
    if isinstance(layer, (IncomingConnection, RejectConnection)):
        return [Section(type(layer).__name__, "7", [_key("publicKey", layer.public_key)])]
    return [Section(type(layer).__name__, "4", _fields_of(layer))]


def _channel_message(message: ChannelMessage) -> list[Section]:
    padding = Part("randPadding", message.rand_padding, "random, ignored")
    if isinstance(message.content, Rekey):
        return [
            Section("ChannelMessage", "5", [padding]),
            Section("Rekey", "5.1", _fields_of(message.content)),
        ]
    user = Part("user", message.content, "the KaMessage, packed")
    return [Section("ChannelMessage", "5", [padding, user])]


def _fields_of(message: Message) -> list[Part]:
    return [_field(_protocol_name(name), value) for name, value in vars(message).items()]


def _field(name: str, value: Optional[bytes]) -> Part:
    if value is None:
        return Part(name, b"", "empty")
    if name in ("srcPublicKey", "optDestPublicKey"):
        return _key(name, value)
    return Part(name, value, "", Style.FIELD)


def _key(name: str, key: bytes) -> Part:
    return Part(name, key, f"in base64: {encode_key(key)}", Style.FIELD)


def _protocol_name(attribute: str) -> str:
    """Return the field's name in the protocol: rand_nonce becomes randNonce."""
    first, *others = attribute.split("_")
    return first + "".join(word.capitalize() for word in others)


def packed_parts(payload: bytes, message: Message) -> list[Part]:
    """Split a packed message into its fields and the pointers between them.

    In a packed field, the bytes of each word are reversed, and a count byte may follow the first word. A
    word that contains zero bytes can be packed differently; it is then not found.

    Args:
        payload: the packed message.
        message: the decoded message.
    """
    parts: list[Part] = []
    at = 0
    for name, value in vars(message).items():
        found = _find_words(payload, at, fixed_words(value)) if value else None
        if found is None:
            continue
        start, end = found
        if start > at:
            parts.append(_pointers(payload[at:start], first=not parts))
        parts.append(Part(_protocol_name(name), payload[start:end], "words reversed, packed", Style.FIELD))
        at = end
    if at < len(payload):
        parts.append(_pointers(payload[at:], first=not parts))
    return parts


def _pointers(data: bytes, first: bool) -> Part:
    return Part("pointers", data, "segment table, root, pointers" if first else "")


def _find_words(payload: bytes, offset: int, words: bytes) -> Optional[tuple[int, int]]:
    """Return the start of the first word found and the end of the last one."""
    start, at = None, offset
    for index in range(0, len(words), WORD_SIZE):
        found = payload.find(words[index : index + WORD_SIZE], at)
        if found >= 0:
            start = found if start is None else start
            at = found + WORD_SIZE
    return None if start is None else (start, at)
