"""The Cap'n Proto reader, with unusual and hostile input that section 3.2 of docs/protocol.md lists."""

from __future__ import annotations

import pytest

from offset_common.constants import MAX_FRAME_SIZE
from offset_common.errors import DecodeError
from offset_common.wire import capnp
from offset_common.wire.messages import ChannelMessage, IncomingConnection, KaMessage
from offset_common.wire.packing import pack, pack_literal
from tests.wire import layout, oracle
from tests.wire.layout import DOUBLE_FAR, FAR, LIST, OTHER, STRUCT, elements, far, near, sections, word

USER = b"sixteen bytes..."
KA_ROOT = near(STRUCT, 0, sections(1, 1))  # the root pointer of a KaMessage
MESSAGE = word(1)  # its data section: message
DATA = near(LIST, 0, elements(16))  # a pointer to the 16 bytes after it


def both_read(*segments: bytes) -> bytes:
    """Decode the Data of a KaMessage, and check that the oracle agrees."""
    packed = layout.packed(*segments)
    message = KaMessage.decode(packed)
    assert oracle.read(KaMessage, packed) == message
    assert message.message is not None
    return message.message


def both_refuse(*segments: bytes) -> str:
    """Check that the decoder and the oracle reject a KaMessage; return our reason."""
    packed = layout.packed(*segments)
    with pytest.raises(oracle.Refused):
        oracle.read(KaMessage, packed)
    return refused(packed)


def refused(packed: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        KaMessage.decode(packed)
    return str(caught.value)


def test_offset_of_a_landing_pad_counts_from_its_end():
    pad = near(LIST, -3, elements(16))
    assert both_read(KA_ROOT + MESSAGE + far(1, 2), USER + pad) == USER


def test_far_pointer_into_its_own_segment_reads():
    assert both_read(KA_ROOT + MESSAGE + far(0, 3) + DATA + USER) == USER


def test_data_may_end_inside_a_word():
    assert both_read(KA_ROOT + MESSAGE + near(LIST, 0, elements(9)) + USER) == USER[:9]


def test_empty_data_may_be_at_the_end_of_its_segment():
    assert both_read(KA_ROOT + MESSAGE + near(LIST, 0, elements(0))) == b""


def test_null_data_is_empty():
    assert both_read(KA_ROOT + MESSAGE + word(0)) == b""


def test_data_beyond_a_short_pointer_section_is_empty():
    assert both_read(near(STRUCT, 0, sections(1, 0)) + MESSAGE) == b""


@pytest.mark.parametrize(
    "root",
    [word(0), near(STRUCT, -1, 0), near(STRUCT, 0, sections(0, 1)) + word(0)],
    ids=["null", "empty", "short"],
)
def test_missing_discriminant_is_zero(root):
    packed = layout.packed(root)
    assert KaMessage.decode(packed) == KaMessage(None) == oracle.read(KaMessage, packed)


def test_null_key_is_zero_bytes_at_every_depth():
    null = layout.packed(near(STRUCT, 0, sections(0, 1)) + word(0))
    null_inner = layout.packed(near(STRUCT, 0, sections(0, 1)) * 2 + word(0))
    for packed in (layout.packed(word(0)), null, null_inner):
        assert IncomingConnection.decode(packed) == IncomingConnection(bytes(32))
        assert oracle.read(IncomingConnection, packed) == IncomingConnection(bytes(32))


def test_missing_words_of_a_key_are_zero():
    pointers = near(STRUCT, 0, sections(0, 1)) * 2 + near(STRUCT, 0, sections(2, 0))
    packed = layout.packed(pointers + bytes(range(16)))
    key = bytes(range(7, -1, -1)) + bytes(range(15, 7, -1)) + bytes(16)
    assert IncomingConnection.decode(packed) == IncomingConnection(key)
    assert oracle.read(IncomingConnection, packed) == IncomingConnection(key)


def test_unknown_fields_are_ignored():
    long_key = oracle.schema.LongIncomingConnection.new_message(number=5, more=b"more")
    oracle.set_words(long_key.init("publicKey").init("inner"), bytes(range(64)))
    long_key.publicKey.more = b"more"
    assert IncomingConnection.decode(long_key.to_bytes_packed()) == IncomingConnection(bytes(range(32)))
    long_ka = oracle.schema.LongKaMessage.new_message(message=USER, number=5, more=b"more")
    assert KaMessage.decode(long_ka.to_bytes_packed()) == KaMessage(USER)


def test_bytes_after_the_end_of_the_message_are_ignored():
    packed = layout.packed(KA_ROOT + MESSAGE + DATA + USER)
    for after in (b"\x00", b"\xff", packed, bytes(100)):
        assert KaMessage.decode(packed + after) == KaMessage(USER)


def test_run_may_cross_from_segment_to_segment():
    segments = (KA_ROOT + MESSAGE + far(1, 0), DATA + USER)
    packed = pack(layout.stream(*segments)[:16]) + pack_literal(b"".join(segments))
    assert KaMessage.decode(packed) == KaMessage(USER) == oracle.read(KaMessage, packed)


# Hostile input: each is one typed error.


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x10", b"\x10\x03", b"\x10\x03\x00"])
def test_message_cut_before_its_root_is_refused(packed):
    refused(packed)


def test_run_across_the_end_of_the_segment_table_is_refused():
    body = KA_ROOT + MESSAGE + DATA + USER
    assert "crosses" in refused(pack_literal(layout.stream(body)))


def test_message_without_a_root_pointer_is_refused():
    assert "root" in both_refuse(b"")
    assert "root" in both_refuse(b"", KA_ROOT + MESSAGE + DATA + USER)


@pytest.mark.parametrize("count", [512, 2**16, 2**31, 2**32 - 1])
def test_more_than_511_segments_are_refused(count):
    assert f"{count} segments" in refused(pack(word(count - 1, 1)) + b"\x00\xff" * 100)


def test_511_segments_are_accepted():
    segments = [far(510, 0), *[b""] * 509, KA_ROOT + MESSAGE + DATA + USER]
    assert KaMessage.decode(layout.packed(*segments)) == KaMessage(USER)


def test_segments_over_the_limit_are_not_unpacked():
    packed = layout.packed(KA_ROOT + MESSAGE + DATA + USER)
    assert capnp.read_message(packed, 40).data(0) == USER
    with pytest.raises(DecodeError, match="unpacks to 40 bytes, over the limit of 39"):
        capnp.read_message(packed, 39)
    assert "over the limit" in refused(pack(word(0, 2**32 - 1)) + b"\x00\xff" * 1000)


def test_sum_of_the_segments_counts_against_the_limit():
    table = word(2, MAX_FRAME_SIZE // 16) + word(MAX_FRAME_SIZE // 16, 1)
    assert "over the limit" in refused(pack(table) + b"\x00\xff" * 1000)


@pytest.mark.parametrize("offset", [1, 3, 2**29 - 1, -4, -(2**29)])
def test_data_that_lies_outside_its_segment_is_refused(offset):
    assert "outside its segment" in both_refuse(KA_ROOT + MESSAGE + near(LIST, offset, elements(16)) + USER)


@pytest.mark.parametrize("size", [17, 2**29 - 1])
def test_data_longer_than_its_segment_is_refused(size):
    assert "outside its segment" in both_refuse(KA_ROOT + MESSAGE + near(LIST, 0, elements(size)) + USER)


@pytest.mark.parametrize(
    "root",
    [
        near(STRUCT, 4, sections(1, 1)),
        near(STRUCT, -2, sections(1, 1)),
        near(STRUCT, 0, sections(5, 0)),
        near(STRUCT, 0, sections(1, 4)),
        near(STRUCT, 0, sections(0xFFFF, 0xFFFF)),
        near(STRUCT, -(2**29), sections(1, 1)),
    ],
)
def test_struct_outside_its_segment_is_refused(root):
    assert "outside its segment" in both_refuse(root + MESSAGE + DATA + USER)


def test_object_may_not_reach_into_the_next_segment():
    assert "outside its segment" in both_refuse(KA_ROOT + MESSAGE + DATA, USER)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 6, 7])
def test_list_of_other_elements_is_not_data(size):
    pointer = near(LIST, 0, elements(1, size))
    assert "pointer to a Data" in both_refuse(KA_ROOT + MESSAGE + pointer + bytes(8) + USER)
    assert "pointer to a Data" in both_refuse(KA_ROOT + MESSAGE + far(1, 0), pointer + bytes(8) + USER)


def test_struct_where_a_data_should_be_is_refused():
    pointer = near(STRUCT, 0, sections(2, 0))
    assert "expected a" in both_refuse(KA_ROOT + MESSAGE + pointer + USER)
    assert "expected a" in both_refuse(KA_ROOT + MESSAGE + far(1, 0), pointer + USER)


def test_list_where_a_struct_should_be_is_refused():
    assert "expected a" in both_refuse(DATA + USER)
    assert "expected a" in both_refuse(far(1, 0), DATA + USER)


@pytest.mark.parametrize("pointer", [word(OTHER), word(OTHER, 5), word(0xFFFFFFFF, 0xFFFFFFFF)])
def test_capability_is_refused_everywhere(pointer):
    assert "expected a" in both_refuse(pointer + USER)
    assert "expected a" in both_refuse(KA_ROOT + MESSAGE + pointer + USER)
    assert "expected a" in both_refuse(KA_ROOT + MESSAGE + far(1, 0), pointer + USER)


@pytest.mark.parametrize("kind", [FAR, DOUBLE_FAR])
@pytest.mark.parametrize("segment", [2, 3, 2**32 - 1])
def test_far_pointer_to_a_missing_segment_is_refused(segment, kind):
    assert "does not exist" in both_refuse(KA_ROOT + MESSAGE + far(segment, 0, kind), DATA + USER)


def test_double_far_object_in_a_missing_segment_is_refused():
    assert "does not exist" in both_refuse(KA_ROOT + MESSAGE + far(1, 0, DOUBLE_FAR), far(2, 0) + DATA)


@pytest.mark.parametrize("pointer", [far(1, 3), far(1, 2**29 - 1), far(1, 2, DOUBLE_FAR), far(2, 0)])
def test_landing_pad_outside_its_segment_is_refused(pointer):
    assert "outside its segment" in both_refuse(KA_ROOT + MESSAGE + pointer, DATA + USER, b"")


@pytest.mark.parametrize("pad", [far(1, 0), far(0, 2), far(1, 1) + DATA + USER])
def test_landing_pad_that_is_a_far_pointer_again_is_refused(pad):
    assert "expected a" in both_refuse(KA_ROOT + MESSAGE + far(1, 0), pad)


def test_double_far_pointer_to_another_one_is_refused():
    pad = far(1, 0, DOUBLE_FAR) + DATA
    assert "double-far" in refused(layout.packed(KA_ROOT + MESSAGE + far(1, 0, DOUBLE_FAR), pad + USER))


@pytest.mark.parametrize("pad", [DATA + DATA, word(0) + DATA])
def test_double_far_landing_pad_needs_a_far_pointer(pad):
    assert "expected a" in refused(layout.packed(KA_ROOT + MESSAGE + far(1, 0, DOUBLE_FAR), pad + USER))


def test_struct_that_contains_itself_is_refused():
    itself = near(STRUCT, -1, sections(0, 1))
    with pytest.raises(DecodeError, match="the same object"):
        IncomingConnection.decode(layout.packed(itself))


def test_fields_that_share_one_object_are_refused():
    padding = near(LIST, 3, elements(800))
    content = near(STRUCT, 0, sections(1, 1))
    user = near(LIST, 0, elements(800))
    head = near(STRUCT, 0, sections(0, 2)) + padding + content + word(1) + user
    with pytest.raises(DecodeError, match="the same object"):
        ChannelMessage.decode(layout.packed(head + b"p" * 800))
    head = near(STRUCT, 0, sections(0, 2)) + padding + content + word(1) + near(LIST, 100, elements(800))
    message = ChannelMessage.decode(layout.packed(head + b"p" * 800 + b"u" * 800))
    assert message == ChannelMessage(b"p" * 800, b"u" * 800)
