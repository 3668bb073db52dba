"""Every byte of a message is named, and the names are right: the values are those that the message has."""

from __future__ import annotations

import pytest

pytest.importorskip("capnp")

from hypothesis import given
from hypothesis import strategies as st

from offset_common.illustrate.capnp_map import map_message
from offset_common.illustrate.layers import message_layer
from offset_common.illustrate.regions import unpack_with_origin
from offset_common.illustrate.schema import MESSAGES
from offset_common.wire import fields, messages
from tests.channel.recorded import load
from tests.wire import oracle
from tests.wire.strategies import BY_KIND

ANY_MESSAGE = st.one_of(*[BY_KIND[kind] for kind in BY_KIND if kind.__name__ in MESSAGES])


def values_of(message: fields.Message) -> dict[str, bytes]:
    """Return the byte strings of a message by their names in the protocol."""
    if isinstance(message, messages.ChannelMessage):
        content = message.content
        inner = values_of(content) if isinstance(content, messages.Rekey) else {"user": content}
        return {"randPadding": message.rand_padding, **inner}
    values = {}
    for attribute, value in vars(message).items():
        if isinstance(value, bytes):
            first, *others = attribute.split("_")
            values[first + "".join(map(str.capitalize, others))] = value
    return values


@given(ANY_MESSAGE, st.none() | st.lists(st.integers(0, 5), max_size=6))
def test_fields_have_the_values_of_the_message(message: fields.Message, slack: list[int] | None) -> None:
    packed = oracle.packed(message, slack)
    found = map_message(type(message).__name__, packed)
    assert {field.name: field.value for field in found.fields} == values_of(message)


@given(ANY_MESSAGE, st.none() | st.lists(st.integers(0, 5), max_size=6))
def test_every_byte_belongs_to_one_region(message: fields.Message, slack: list[int] | None) -> None:
    packed = oracle.packed(message, slack)
    layer = message_layer(type(message).__name__, packed)
    for size, regions in ((len(packed), layer.regions), (len(layer.words), layer.word_regions)):
        covered = [position for region in regions for position in range(region.start, region.end)]
        assert covered == list(range(size))
        assert all(region.name and region.note for region in regions)


@given(ANY_MESSAGE)
def test_unpacked_bytes_come_from_where_it_says(message: fields.Message) -> None:
    packed = oracle.packed(message)
    unpacked = map_message(type(message).__name__, packed).unpacked
    assert unpacked.words == oracle.build(message).to_bytes()
    assert all(
        byte == (0 if origin is None else packed[origin])
        for byte, origin in zip(unpacked.words, unpacked.origin)
    )


def test_messages_of_the_original_relay_are_understood() -> None:
    """They have several segments, and padding of up to 64 KiB behind far pointers."""
    count = 0
    for recorded in load("channel.json"):
        for plaintext in recorded.plaintexts("received"):
            message = messages.ChannelMessage.decode(plaintext)
            found = map_message("ChannelMessage", plaintext)
            assert {field.name: field.value for field in found.fields} == values_of(message)
            count += any("far" in region.name for region in found.regions)
    assert count


def test_bytes_after_a_message_are_shown_as_such() -> None:
    packed = messages.RejectConnection(bytes(range(32))).encode()
    for more in (b"\x00", b"\xff", b"\x12\x34", b"\xff" * 30):
        layer = message_layer("RejectConnection", packed + more)
        assert layer.regions[-1].end == len(packed + more)
        assert [field.value for field in layer.fields] == [bytes(range(32))]


@pytest.mark.parametrize(
    ("packed", "note"),
    [
        (b"\x11\x01\x02", "In binary 00010001: bytes 0 and 4 of the word follow, the other six are zero."),
        (b"\x40\x02", "In binary 01000000: byte 6 of the word follows, the other seven are zero."),
        (b"\xff" + bytes(range(1, 9)) + b"\x00", "All eight bytes of the word follow, then a count."),
        (b"\x00\x00", "All eight bytes of the word are zero, so only a count follows."),
    ],
)
def test_a_tag_is_explained_by_its_bits(packed: bytes, note: str) -> None:
    assert unpack_with_origin(packed).control[0].note == note
