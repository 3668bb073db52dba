"""The messages of section 3.1 of docs/protocol.md, compared with recordings and with pycapnp."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offset_common.errors import DecodeError, LocalProtocolError
from offset_common.wire.fields import Message
from offset_common.wire.messages import (
    ChannelMessage,
    ExchangeDh,
    ExchangeRandNonce,
    IncomingConnection,
    InitConnection,
    InitRole,
    KaMessage,
    RejectConnection,
    Rekey,
)
from tests.channel import recorded
from tests.fuzz.messages import check
from tests.wire import layout, oracle
from tests.wire.layout import STRUCT, Place, near, sections, word
from tests.wire.strategies import BY_KIND, KINDS

RECORDINGS = {
    f"{name}-{number}": recording
    for name in ("handshake", "channel", "rekey")
    for number, recording in enumerate(recorded.load(f"{name}.json"))
}
CHANNELS = {name: found for name, found in RECORDINGS.items() if not name.startswith("handshake")}


@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("recording", RECORDINGS.values(), ids=RECORDINGS)
def test_recorded_handshakes_decode_to_the_recorded_keys(recording, direction):
    _, first_payload, second_payload = recording.payloads(direction)[:3]
    first, second = ExchangeRandNonce.decode(first_payload), ExchangeDh.decode(second_payload)
    mine, relays = recording.bytes_of("identity_public_key"), recording.bytes_of("relay_public_key")
    if direction == "sent":
        assert (first.src_public_key, first.opt_dest_public_key) == (mine, relays)
        assert second.key_salt == recording.bytes_of("sending_salt")
    else:
        assert (first.src_public_key, first.opt_dest_public_key) == (relays, None)
        assert second.key_salt == recording.bytes_of("receiving_salt")
    assert oracle.read(ExchangeRandNonce, first_payload) == first
    assert oracle.read(ExchangeDh, second_payload) == second


@pytest.mark.parametrize("direction", ["sent", "received"])
@pytest.mark.parametrize("recording", CHANNELS.values(), ids=CHANNELS)
def test_recorded_channels_decode_as_by_the_oracle(recording, direction):
    for plain in recording.plaintexts(direction):
        message = ChannelMessage.decode(plain)
        assert oracle.read(ChannelMessage, plain) == message
        if isinstance(message.content, bytes):
            assert oracle.read(KaMessage, message.content) == KaMessage.decode(message.content)


def test_recorded_init_connections_have_their_roles():
    for recording in recorded.load("channel.json"):
        first = ChannelMessage.decode(next(recording.plaintexts("sent"))).content
        assert isinstance(first, bytes)
        message = KaMessage.decode(first).message
        assert message is not None
        init = InitConnection.decode(message)
        assert init.role is InitRole[recording.role.upper()]
        assert oracle.read(InitConnection, message) == init


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_oracle_decodes_our_messages(kind, data):
    message = data.draw(BY_KIND[kind])
    assert oracle.read(kind, message.encode()) == message


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_messages_of_the_oracle_decode_from_any_segments(kind, data):
    message = data.draw(BY_KIND[kind])
    slack = data.draw(st.none() | st.lists(st.integers(0, 6), max_size=10))
    assert kind.decode(oracle.packed(message, slack)) == message


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=60)
def test_every_kind_of_pointer_decodes_as_by_the_oracle(kind, data):
    message = data.draw(BY_KIND[kind])
    places = data.draw(st.lists(st.sampled_from(Place), max_size=10))
    packed = layout.packed(*layout.scatter(message_stream(message), places))
    assert oracle.read(kind, packed) == message
    assert kind.decode(packed) == message


def message_stream(message: Message) -> bytes:
    """Return an unpacked message of the oracle, in one segment."""
    written: bytes = oracle.build(message, [10_000]).to_bytes()
    return written


@pytest.mark.parametrize(
    ("kind", "root", "known"),
    [
        (ExchangeRandNonce, sections(1, 3), 2),
        (KaMessage, sections(1, 1), 2),
        (InitConnection, sections(1, 1), 3),
    ],
)
@pytest.mark.parametrize("beyond", [0, 1, 0xFFFF])
def test_unknown_union_discriminant_is_refused(kind, root, known, beyond):
    choice = min(known + beyond, 0xFFFF)
    with pytest.raises(DecodeError, match=f"unknown kind {choice}"):
        kind.decode(layout.packed(near(STRUCT, 0, root) + word(choice) + bytes(24)))


@pytest.mark.parametrize("choice", [2, 0xFFFF])
def test_unknown_channel_content_is_refused(choice):
    pointers = near(STRUCT, 0, sections(0, 2)) + word(0) + near(STRUCT, 0, sections(1, 1))
    with pytest.raises(DecodeError, match=f"unknown kind {choice}"):
        ChannelMessage.decode(layout.packed(pointers + word(choice) + word(0)))


def test_other_bits_of_the_discriminants_word_are_ignored():
    packed = layout.packed(near(STRUCT, 0, sections(1, 1)) + word(0xFFFF0000, 0xFFFFFFFF) + word(0))
    assert InitConnection.decode(packed) == InitConnection(InitRole.LISTEN)
    assert oracle.read(InitConnection, packed) == InitConnection(InitRole.LISTEN)


@pytest.mark.parametrize("kind", [ExchangeRandNonce, ExchangeDh])
def test_handshake_message_unpacks_to_one_frame_at_most(kind):
    with pytest.raises(DecodeError, match="over the limit of 2048"):
        kind.decode(layout.packed(bytes(2056)))
    kind.decode(layout.packed(bytes(2048)))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100)
def test_changed_message_decodes_to_a_value_or_is_refused(kind, data):
    message = data.draw(BY_KIND[kind])
    places = data.draw(st.lists(st.sampled_from(Place), max_size=6))
    segments = layout.scatter(message_stream(message), places)
    changed = bytearray(b"".join(segments))
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, min(len(changed), 120) - 1))] = data.draw(st.integers(0, 255))
    ends = [sum(map(len, segments[: i + 1])) for i in range(len(segments))]
    recut = [bytes(changed[end - len(segment) : end]) for end, segment in zip(ends, segments)]
    check(kind, layout.packed(*recut))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=100)
def test_damaged_packed_bytes_decode_or_are_refused(kind, data):
    packed = bytearray(oracle.packed(data.draw(BY_KIND[kind]), data.draw(st.none() | st.just([]))))
    for _ in range(data.draw(st.integers(0, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    check(kind, bytes(packed[: data.draw(st.integers(0, len(packed)))]))


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=20)
def test_every_truncation_is_refused(kind, data):
    packed = data.draw(BY_KIND[kind]).encode()
    for length in {*range(min(len(packed), 100)), len(packed) - 1}:
        with pytest.raises(DecodeError):
            kind.decode(packed[:length])


# Errors of the caller.


@pytest.mark.parametrize(
    ("make", "sizes"),
    [
        (ExchangeRandNonce, (16, 32)),
        (ExchangeRandNonce, (16, 32, 32)),
        (ExchangeDh, (32, 16, 32, 64)),
        (Rekey, (32, 32)),
        (RejectConnection, (32,)),
        (IncomingConnection, (32,)),
    ],
)
@pytest.mark.parametrize("change", [-1, 1])
def test_fixed_byte_string_of_another_size_is_refused(make, sizes, change):
    make(*map(bytes, sizes))
    for index in range(len(sizes)):
        wrong = [bytes(size + change * (index == at)) for at, size in enumerate(sizes)]
        with pytest.raises(LocalProtocolError, match="bytes, not"):
            make(*wrong)


@pytest.mark.parametrize("role", InitRole)
def test_only_accept_and_connect_have_a_public_key(role):
    wrong = [bytes(32)] if role is InitRole.LISTEN else [None, bytes(31)]
    for key in wrong:
        with pytest.raises(LocalProtocolError):
            InitConnection(role, key)


def test_messages_are_equal_by_kind_and_by_fields():
    assert RejectConnection(bytes(32)) == RejectConnection(bytes(32))
    assert RejectConnection(bytes(32)) != RejectConnection(b"k" * 32)
    assert RejectConnection(bytes(32)) != IncomingConnection(bytes(32))
    assert KaMessage(None) != KaMessage(b"")


def test_repr_hides_byte_strings():
    secret = b"s" * 32
    shown = [
        ExchangeRandNonce(secret[:16], secret),
        ChannelMessage(secret, Rekey(secret, secret)),
        InitConnection(InitRole.CONNECT, secret),
    ]
    assert [repr(message) for message in shown] == [
        "ExchangeRandNonce(rand_nonce=<16 bytes>, src_public_key=<32 bytes>, opt_dest_public_key=None)",
        "ChannelMessage(rand_padding=<32 bytes>,"
        " content=Rekey(dh_public_key=<32 bytes>, key_salt=<32 bytes>))",
        "InitConnection(role=InitRole.CONNECT, public_key=<32 bytes>)",
    ]
