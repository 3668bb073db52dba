"""A frame taken apart into its layers, and each layer into named parts with their bytes.

Source: sections 1 to 7 of docs/protocol.md, as each layer names.
"""

from __future__ import annotations

from typing import NamedTuple, Optional

from offset_common.constants import ENCRYPTION_OVERHEAD, FRAME_LENGTH_SIZE, NONCE_SIZE, TAG_SIZE
from offset_common.identity import encode_key
from offset_common.tools.frames_seen import Frame, Layer, TunnelMessage, Unreadable, Version
from offset_common.tools.terminal import Paint
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
    """Some bytes with a name.

    Args:
        name: a field's own, or what the bytes are.
        data: may be empty where only the note says something.
        note: their value, for a person.
        paint: how they look on a terminal.
    """

    name: str
    data: bytes
    note: str = ""
    paint: Optional[Paint] = None


class Section(NamedTuple):
    """One layer of a frame.

    Args:
        title: the name of the layer.
        section: of docs/protocol.md.
        parts: in the order of the bytes, or of the fields.
    """

    title: str
    section: str
    parts: list[Part]


def take_apart(frame: Frame) -> list[Section]:
    """Return the layers of a frame, from the socket up."""
    outer = frame.layers[0]
    length = len(frame.payload)
    header = Part("length", length.to_bytes(FRAME_LENGTH_SIZE, "big"), f"{length} bytes follow", Paint.LENGTH)
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
            Part("nonce", nonce, f"message {number} under this key", Paint.NONCE),
            Part("ciphertext", payload[NONCE_SIZE:-TAG_SIZE], "the ChannelMessage, sealed"),
            Part("tag", tag, "proves that nothing was changed", Paint.TAG),
        ]
    if isinstance(outer, (ExchangeRandNonce, ExchangeDh)):
        return packed_parts(payload, outer)
    return [Part("payload", payload)]


def _sections_of(layer: Layer) -> list[Section]:
    if isinstance(layer, (Version, Unreadable)):
        return []
    if isinstance(layer, TunnelMessage):
        note = ascii(layer.data.decode("utf-8", "replace"))[1:-1]
        return [Section("message of a node to the other", "7", [Part("bytes", layer.data, note)])]
    if isinstance(layer, ChannelMessage):
        return _channel_message(layer)
    if isinstance(layer, KaMessage):
        if layer.message is None:
            return [Section("KaMessage", "6", [Part("keepAlive", b"", "without content")])]
        return [Section("KaMessage", "6", [Part("message", layer.message, _packed_note(layer.message))])]
    if isinstance(layer, InitConnection):
        name = layer.role.name.lower()
        part = (
            Part(name, b"", "without content") if layer.public_key is None else _key(name, layer.public_key)
        )
        return [Section("InitConnection", "7", [part])]
    if isinstance(layer, (IncomingConnection, RejectConnection)):
        return [Section(type(layer).__name__, "7", [_key("publicKey", layer.public_key)])]
    return [Section(type(layer).__name__, "4", _fields_of(layer))]


def _channel_message(message: ChannelMessage) -> list[Section]:
    padding = Part("randPadding", message.rand_padding, "without meaning")
    if isinstance(message.content, Rekey):
        return [
            Section("ChannelMessage", "5", [padding]),
            Section("Rekey", "5.1", _fields_of(message.content)),
        ]
    user = Part("user", message.content, "the KaMessage, packed")
    return [Section("ChannelMessage", "5", [padding, user])]


def _packed_note(message: bytes) -> str:
    return f"{len(message)} bytes of the layer above"


def _fields_of(message: Message) -> list[Part]:
    return [_field(protocol_name(name), value) for name, value in vars(message).items()]


def _field(name: str, value: Optional[bytes]) -> Part:
    if value is None:
        return Part(name, b"", "empty")
    if name in ("srcPublicKey", "optDestPublicKey", "publicKey"):
        return _key(name, value)
    return Part(name, value, "", Paint.FIELD)


def _key(name: str, key: bytes) -> Part:
    return Part(name, key, f"in a ticket {encode_key(key)}", Paint.FIELD)


def protocol_name(attribute: str) -> str:
    """Return the name that a field has in the protocol: rand_nonce is randNonce."""
    first, *others = attribute.split("_")
    return first + "".join(word.capitalize() for word in others)


def packed_parts(payload: bytes, message: Message) -> list[Part]:
    """Cut a packed message where its fields begin and end; what is between them are pointers.

    A field's words stand in it with their bytes reversed, the number of the words that follow the first
    between them. A word with zeros in it may be packed in another way and is then not marked.

    Args:
        payload: the packed message.
        message: what it was read as.
    """
    parts: list[Part] = []
    at = 0
    for name, value in vars(message).items():
        found = _find_words(payload, at, fixed_words(value)) if value else None
        if found is None:
            continue
        begin, end = found
        if begin > at:
            parts.append(_pointers(payload[at:begin], first=not parts))
        parts.append(Part(protocol_name(name), payload[begin:end], "words reversed, packed", Paint.FIELD))
        at = end
    if at < len(payload):
        parts.append(_pointers(payload[at:], first=not parts))
    return parts


def _pointers(data: bytes, first: bool) -> Part:
    return Part("pointers", data, "segment table, root, pointers" if first else "")


def _find_words(payload: bytes, start: int, words: bytes) -> Optional[tuple[int, int]]:
    """Return where the first of the words begins and the last that follows it ends."""
    begin, at = None, start
    for index in range(0, len(words), WORD_SIZE):
        found = payload.find(words[index : index + WORD_SIZE], at)
        if found >= 0:
            begin = found if begin is None else begin
            at = found + WORD_SIZE
    return None if begin is None else (begin, at)
