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


HEAD = KA_ROOT + MESSAGE  # then comes the pointer to the Data
WHOLE = HEAD + DATA + USER


def refused(packed: bytes) -> str:
    with pytest.raises(DecodeError) as caught:
        KaMessage.decode(packed)
    return str(caught.value)


READ = {
    "the offset of a landing pad counts from its end": (
        [HEAD + far(1, 2), USER + near(LIST, -3, elements(16))],
        USER,
    ),
    "a far pointer may lead into its own segment": ([HEAD + far(0, 3) + DATA + USER], USER),
    "Data may end inside a word": ([HEAD + near(LIST, 0, elements(9)) + USER], USER[:9]),
    "empty Data may be at the end of its segment": ([HEAD + near(LIST, 0, elements(0))], b""),
    "null Data is empty": ([HEAD + word(0)], b""),
    "Data beyond a short pointer section is empty": ([near(STRUCT, 0, sections(1, 0)) + MESSAGE], b""),
}


@pytest.mark.parametrize(("segments", "data"), READ.values(), ids=list(READ))
def test_unusual_layout_is_read(segments, data):
    packed = layout.packed(*segments)
    assert KaMessage.decode(packed) == KaMessage(data) == oracle.read(KaMessage, packed)


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
    packed = layout.packed(WHOLE)
    for after in (b"\x00", b"\xff", packed, bytes(100)):
        assert KaMessage.decode(packed + after) == KaMessage(USER)


def test_run_may_cross_from_segment_to_segment():
    segments = (HEAD + far(1, 0), DATA + USER)
    packed = pack(layout.stream(*segments)[:16]) + pack_literal(b"".join(segments))
    assert KaMessage.decode(packed) == KaMessage(USER) == oracle.read(KaMessage, packed)


# Hostile input: each is one typed error.


@pytest.mark.parametrize("packed", [b"", b"\x00", b"\x10", b"\x10\x03", b"\x10\x03\x00"])
def test_message_cut_before_its_root_is_refused(packed):
    refused(packed)


def test_run_across_the_end_of_the_segment_table_is_refused():
    body = WHOLE
    assert "crosses" in refused(pack_literal(layout.stream(body)))


@pytest.mark.parametrize("count", [512, 2**16, 2**31, 2**32 - 1])
def test_more_than_511_segments_are_refused(count):
    assert f"{count} segments" in refused(pack(word(count - 1, 1)) + b"\x00\xff" * 100)


def test_511_segments_are_accepted():
    segments = [far(510, 0), *[b""] * 509, WHOLE]
    assert KaMessage.decode(layout.packed(*segments)) == KaMessage(USER)


def test_segments_over_the_limit_are_not_unpacked():
    packed = layout.packed(WHOLE)
    assert capnp.read_message(packed, 40).data(0) == USER
    with pytest.raises(DecodeError, match="unpacks to 40 bytes, over the limit of 39"):
        capnp.read_message(packed, 39)
    assert "over the limit" in refused(pack(word(0, 2**32 - 1)) + b"\x00\xff" * 1000)


def test_sum_of_the_segments_counts_against_the_limit():
    table = word(2, MAX_FRAME_SIZE // 16) + word(MAX_FRAME_SIZE // 16, 1)
    assert "over the limit" in refused(pack(table) + b"\x00\xff" * 1000)


OUTSIDE, OTHER_KIND, MISSING = "outside its segment", "expected a", "does not exist"
BYTES = bytes(8) + USER
REFUSED = {
    "no root pointer": ([b""], "root"),
    "no root pointer in the first segment": ([b"", WHOLE], "root"),
    **{
        f"Data {offset} words further": ([HEAD + near(LIST, offset, elements(16)) + USER], OUTSIDE)
        for offset in (1, 3, 2**29 - 1, -4, -(2**29))
    },
    **{
        f"Data of {size} bytes": ([HEAD + near(LIST, 0, elements(size)) + USER], OUTSIDE)
        for size in (17, 2**29 - 1)
    },
    **{
        f"struct of {data} and {pointers} words at {offset}": (
            [near(STRUCT, offset, sections(data, pointers)) + MESSAGE + DATA + USER],
            OUTSIDE,
        )
        for offset, data, pointers in (
            *((4, 1, 1), (-2, 1, 1), (0, 5, 0), (0, 1, 4), (0, 0xFFFF, 0xFFFF), (-(2**29), 1, 1)),
        )
    },
    "object that reaches into the next segment": ([HEAD + DATA, USER], OUTSIDE),
    **{
        f"list of elements of size {size}": ([HEAD + near(LIST, 0, elements(1, size)) + BYTES], "a Data")
        for size in (0, 1, 3, 4, 5, 6, 7)
    },
    "list of bits behind a far pointer": (
        [HEAD + far(1, 0), near(LIST, 0, elements(1, 1)) + BYTES],
        "a Data",
    ),
    "struct in place of a Data": ([HEAD + near(STRUCT, 0, sections(2, 0)) + USER], OTHER_KIND),
    "list in place of a struct": ([DATA + USER], OTHER_KIND),
    "list in place of a struct, behind a far pointer": ([far(1, 0), DATA + USER], OTHER_KIND),
    "capability as the root": ([word(OTHER, 5) + USER], OTHER_KIND),
    "capability in place of a Data": ([HEAD + word(OTHER) + USER], OTHER_KIND),
    "capability behind a far pointer": ([HEAD + far(1, 0), word(OTHER) + USER], OTHER_KIND),
    **{
        f"pointer of kind {kind} to segment {segment}": ([HEAD + far(segment, 0, kind), DATA + USER], MISSING)
        for kind in (FAR, DOUBLE_FAR)
        for segment in (2, 2**32 - 1)
    },
    "double-far object in a missing segment": ([HEAD + far(1, 0, DOUBLE_FAR), far(2, 0) + DATA], MISSING),
    **{
        f"landing pad at word {position} of segment {segment}": (
            [HEAD + far(segment, position, kind), DATA + USER, b""],
            OUTSIDE,
        )
        for segment, position, kind in ((1, 3, FAR), (1, 2**29 - 1, FAR), (1, 2, DOUBLE_FAR), (2, 0, FAR))
    },
    "landing pad that leads to itself": ([HEAD + far(1, 0), far(1, 0)], OTHER_KIND),
    "landing pad that leads back": ([HEAD + far(1, 0), far(0, 2)], OTHER_KIND),
    "landing pad that leads on": ([HEAD + far(1, 0), far(1, 1) + DATA + USER], OTHER_KIND),
}


@pytest.mark.parametrize(("segments", "reason"), REFUSED.values(), ids=list(REFUSED))
def test_invalid_pointer_is_refused(segments, reason):
    packed = layout.packed(*segments)
    with pytest.raises(oracle.Refused):
        oracle.read(KaMessage, packed)
    assert reason in refused(packed)


def test_double_far_pointer_to_another_one_is_refused():
    pad = far(1, 0, DOUBLE_FAR) + DATA
    assert "double-far" in refused(layout.packed(HEAD + far(1, 0, DOUBLE_FAR), pad + USER))


@pytest.mark.parametrize("pad", [DATA + DATA, word(0) + DATA])
def test_double_far_landing_pad_needs_a_far_pointer(pad):
    assert "expected a" in refused(layout.packed(HEAD + far(1, 0, DOUBLE_FAR), pad + USER))


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
