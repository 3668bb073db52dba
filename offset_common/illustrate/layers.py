"""The layers of a frame, from the bytes on the wire to the innermost message.

    frame -> ChannelMessage -> KaMessage -> the relay's message
                                         -> the tunnel's message -> ChannelMessage -> KaMessage -> data

A layer maps each byte of the layer inside it to one of its own bytes. A stream cipher keeps positions, so
this works for ciphertext too.

Source: section 0 of docs/protocol.md.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Optional

from offset_common.constants import FRAME_LENGTH_SIZE, NONCE_SIZE, TAG_SIZE
from offset_common.illustrate.capnp_map import Field, map_message
from offset_common.illustrate.regions import Region, fill_gaps
from offset_common.illustrate.schema import MESSAGES

TEXT = "text"
"""The name of the data between the nodes."""


@dataclass
class Layer:
    """One layer of a frame.

    Args:
        title: its name.
        text: what it is, in a sentence or two.
        section: the section of docs/protocol.md.
        data: its bytes, packed if it is a message.
        regions: names of these bytes, in order, without gaps.
        words: the unpacked bytes of a message; empty for any other layer.
        word_regions: names of the unpacked bytes.
        word_origin: for each unpacked byte, its position in `data`, or None.
        fields: the fields of a message.
        inner: the layer inside, if there is one.
        inner_at: for each byte of the inner layer, its position in `data`, or None.
        key: the key that decrypts the inner layer; empty if it is not encrypted.
        end_to_end: whether the relay can't read this layer.
    """

    title: str
    text: str
    section: str
    data: bytes
    regions: list[Region]
    words: bytes = b""
    word_regions: list[Region] = field(default_factory=list)
    word_origin: list[Optional[int]] = field(default_factory=list)
    fields: list[Field] = field(default_factory=list)
    inner: Optional[Layer] = None
    inner_at: list[Optional[int]] = field(default_factory=list)
    key: bytes = b""
    end_to_end: bool = False

    def contain(self, inner: Layer, positions: list[Optional[int]]) -> None:
        """Put a layer inside; `positions` is `inner_at`."""
        self.inner = inner
        self.inner_at = positions

    def chain(self) -> list[Layer]:
        """Return this layer and all inside it."""
        return [self, *(self.inner.chain() if self.inner else [])]


def frame_layer(payload: bytes, key: bytes = b"") -> Layer:
    """Return the outermost layer of a frame; `key` decrypts the payload if it is encrypted."""
    length = Region(
        0, FRAME_LENGTH_SIZE, "length", "length", f"{len(payload)} bytes follow; 8 bytes, big endian."
    )
    data = len(payload).to_bytes(FRAME_LENGTH_SIZE, "big") + payload
    inside = Region(FRAME_LENGTH_SIZE, len(data), "payload", "payload", "One message of the handshake.")
    regions = [length, *(_sealed_regions(payload, FRAME_LENGTH_SIZE) if key else [inside])]
    text = "The bytes on the TCP connection: a length, then the payload."
    if key:
        text += " It is encrypted, so an eavesdropper learns only its size."
    return Layer("Frame", text, "1", data, regions, key=key)


def version_layer(payload: bytes) -> Layer:
    """Return the only layer of a version frame."""
    layer = frame_layer(payload)
    number = int.from_bytes(payload, "big")
    layer.regions[1:] = [
        Region(
            FRAME_LENGTH_SIZE,
            len(layer.data),
            "version",
            "field",
            f"Protocol version {number}, 4 bytes, big endian.",
        )
    ]
    return layer


def sealed_layer(data: bytes, key: bytes) -> Layer:
    """Return an encrypted message inside the tunnel."""
    text = (
        "The tunnel's message, encrypted once more, with keys that only the two nodes have. The relay "
        "forwards these bytes unchanged and cannot read any further."
    )
    return Layer("End-to-end message", text, "5", data, _sealed_regions(data, 0), key=key)


def _sealed_regions(payload: bytes, start: int) -> list[Region]:
    number = int.from_bytes(payload[:NONCE_SIZE], "little")
    end, tag = start + len(payload), start + len(payload) - TAG_SIZE
    nonce = f"A counter, little endian: this is message {number} under its key."
    cipher = "ChaCha20 adds a key stream to the plaintext, so byte for byte the positions stay the same."
    proof = "Poly1305 over the ciphertext: an attacker who changes a bit cannot compute this tag."
    return [
        Region(start, start + NONCE_SIZE, "nonce", "nonce", nonce),
        Region(start + NONCE_SIZE, tag, "ciphertext", "ciphertext", cipher),
        Region(tag, end, "authentication tag", "tag", proof),
    ]


def message_layer(name: str, packed: bytes) -> Layer:
    """Return the layer of a Cap'n Proto message.

    Args:
        name: the name of its root struct.
        packed: the message.
    """
    text, section = _TEXTS[name]
    found = map_message(name, packed)
    origin = found.unpacked.origin
    regions = list(found.unpacked.control)
    for region in found.regions:
        regions += _packed_runs(region, origin)
    rest = Region(0, 0, "after the end", "unused", "Bytes after the message, which are ignored.")
    return Layer(
        name,
        text,
        section,
        packed,
        fill_gaps(regions, len(packed), rest),
        found.unpacked.words,
        found.regions,
        origin,
        found.fields,
    )


def data_layer(data: bytes) -> Layer:
    """Return the innermost layer of a message between the nodes."""
    note = f"In UTF-8: {data.decode('utf-8', 'replace')}"
    region = Region(0, len(data), TEXT, "field", note)
    text = "The data that one program sends to the other."
    layer = Layer("Data between the nodes", text, "7", data, [region])
    layer.fields.append(Field(TEXT, list(range(len(data))), data))
    return layer


def put_in_field(outer: Layer, name: str, inner: Layer) -> None:
    """Put a layer into the field of a message that carries its bytes."""
    positions = next(each.positions for each in outer.fields if each.name == name)
    outer.contain(inner, [outer.word_origin[each] for each in positions])


def put_in_payload(outer: Layer, inner: Layer, start: int) -> None:
    """Put a layer into the bytes from `start` on: a frame's payload or a ciphertext's plaintext."""
    outer.contain(inner, list(range(start, start + len(inner.data))))


def ciphertext_start(layer: Layer) -> int:
    """Return the start of the ciphertext in an encrypted layer."""
    return next(region.start for region in layer.regions if region.kind == "ciphertext")


def _packed_runs(region: Region, origin: list[Optional[int]]) -> list[Region]:
    """Return a region of unpacked bytes as regions of packed bytes, one for each uninterrupted run."""
    runs: list[Region] = []
    start = previous = -2
    for position in range(region.start, region.end):
        at = origin[position]
        if at is None:
            continue
        if at != previous + 1:
            if start >= 0:
                runs.append(Region(start, previous + 1, region.name, region.kind, region.note))
            start = at
        previous = at
    if start >= 0:
        runs.append(Region(start, previous + 1, region.name, region.kind, region.note))
    return runs


_TEXTS = {
    "ExchangeRandNonce": (
        "The first handshake message: who I am, and a random nonce for you to sign.",
        "4",
    ),
    "ExchangeDh": (
        "The second handshake message: half of a key exchange, and a signature that proves my identity.",
        "4",
    ),
    "ChannelMessage": ("The plaintext: random padding, which hides the size, and the user data.", "5"),
    "KaMessage": ("Either a keepAlive, or a message of the layer above.", "6"),
    "InitConnection": ("The role of this connection: the first message after the handshake.", "7"),
    "IncomingConnection": (
        "The relay announces a connect, with the proven key of the connecting node.",
        "7",
    ),
    "RejectConnection": ("The listener rejects this connect.", "7"),
}
assert set(_TEXTS) == set(MESSAGES)
