"""The handshake proves the peer's key, or ends with a PeerError."""

from __future__ import annotations

from typing import Optional

import pytest

from offset_common.channel.connection import Connection
from offset_common.channel.events import HandshakeCompleted
from offset_common.channel.handshake import ChannelKeys, Handshake
from offset_common.errors import HandshakeError, LocalProtocolError
from offset_common.identity import Identity, verify_signature
from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce
from tests.channel.peers import NODE, RELAY, Randomness, node, receive, relay
from tests.channel.recorded import cut_frames, in_frame
from tests.channel.small_order import ED25519_KEYS, X25519_KEYS

STRANGER = Identity.from_seed(b"\x03" * 32)


def node_stream() -> tuple[bytes, bytes]:
    """Return what the node sends before and after it receives the relay's first message."""
    client, server = node(), relay()
    first = client.data_to_send()
    receive(client, server.data_to_send())
    return first, client.data_to_send()


FIRST, SECOND = node_stream()
DH = ExchangeDh.decode(cut_frames(SECOND)[0])


def relay_after_nonce() -> Connection:
    """Return a relay that expects the node's ExchangeDh."""
    waiting = relay()
    assert receive(waiting, FIRST) == []
    return waiting


def dh_frame(dh: ExchangeDh, signed_by: Optional[Identity] = None) -> bytes:
    """Return the frame of an ExchangeDh, with a new signature if `signed_by` is given."""
    if signed_by is not None:
        signature = signed_by.sign(dh.dh_public_key + dh.rand_nonce + dh.key_salt)
        dh = ExchangeDh(dh.dh_public_key, dh.rand_nonce, dh.key_salt, signature)
    return in_frame(dh.encode())


def changed(field: str, value: bytes) -> ExchangeDh:
    """Return the node's ExchangeDh with one field changed."""
    return ExchangeDh(**{**vars(DH), field: value})


def flip(data: bytes, bit: int) -> bytes:
    """Return `data` with one bit changed."""
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    return bytes(flipped)


def test_handshake_completes_at_its_last_byte():
    stream = FIRST + SECOND
    waiting = relay()
    for i in range(len(stream) - 1):
        assert receive(waiting, stream[i : i + 1]) == []
        assert not waiting.established
    assert receive(waiting, stream[-1:]) == [HandshakeCompleted(NODE.public_key)]
    assert waiting.established
    assert waiting.peer_public_key == NODE.public_key


def test_peer_with_another_key_than_expected_is_refused():
    client = node()
    stranger = Connection(STRANGER, 0.0, None, Randomness(3))
    with pytest.raises(HandshakeError, match="not the expected one"):
        receive(client, stranger.data_to_send())
    sent = cut_frames(client.data_to_send())
    assert len(sent) == 2, "an unexpected peer gets no signature"


def test_signature_of_another_key_is_refused():
    with pytest.raises(HandshakeError, match="signature"):
        receive(relay_after_nonce(), dh_frame(DH, signed_by=STRANGER))


def test_recorded_handshake_cannot_be_used_again():
    later = Connection(RELAY, 0.0, None, Randomness(4))
    with pytest.raises(HandshakeError, match="challenge"):
        receive(later, FIRST + SECOND)


@pytest.mark.parametrize("field", ["dh_public_key", "rand_nonce", "key_salt", "signature"])
def test_each_bit_of_an_exchange_dh_counts(field):
    value = getattr(DH, field)
    handshake = Handshake(RELAY, None, Randomness(2))
    handshake.receive_rand_nonce(ExchangeRandNonce(bytes(16), NODE.public_key))
    assert isinstance(handshake.receive_dh(DH), ChannelKeys)
    for bit in range(8 * len(value)):
        with pytest.raises(HandshakeError):
            handshake.receive_dh(changed(field, flip(value, bit)))


def test_each_bit_of_the_claimed_key_counts():
    for bit in range(256):
        handshake = Handshake(RELAY, None, Randomness(2))
        handshake.receive_rand_nonce(ExchangeRandNonce(bytes(16), flip(NODE.public_key, bit)))
        with pytest.raises(HandshakeError):
            handshake.receive_dh(DH)


@pytest.mark.parametrize("key", X25519_KEYS, ids=lambda key: key.hex()[:16])
def test_signed_dh_key_of_small_order_is_refused(key):
    with pytest.raises(HandshakeError, match="small order"):
        receive(relay_after_nonce(), dh_frame(changed("dh_public_key", key), signed_by=NODE))


@pytest.mark.parametrize("key", ED25519_KEYS, ids=bytes.hex)
def test_small_order_identity_is_refused(key):
    # Forged without a private key: R is a point of small order and S is zero.
    assert any(
        verify_signature(key, point + bytes(32), bytes((attempt,)) * 80)
        for point in ED25519_KEYS
        for attempt in range(32)
    )
    with pytest.raises(HandshakeError, match="small order"):
        Handshake(RELAY, None, Randomness(2)).receive_rand_nonce(ExchangeRandNonce(bytes(16), key))


@pytest.mark.parametrize("expected", [None, RELAY.public_key], ids=["relay", "client"])
def test_our_own_key_is_refused(expected):
    handshake = Handshake(RELAY, expected, Randomness(2))
    with pytest.raises(HandshakeError, match="same identity; give each program"):
        handshake.receive_rand_nonce(ExchangeRandNonce(bytes(16), RELAY.public_key))


def test_nothing_is_available_before_the_handshake_ends():
    waiting = relay_after_nonce()
    assert not waiting.established
    with pytest.raises(LocalProtocolError):
        _ = waiting.peer_public_key
    with pytest.raises(LocalProtocolError):
        _ = waiting.secure_channel
    with pytest.raises(LocalProtocolError):
        waiting.send(b"too early", now=0.0)


def test_keys_are_not_shown():
    assert repr(ChannelKeys(b"\x11" * 32, b"\x22" * 32)) == "ChannelKeys(...)"
