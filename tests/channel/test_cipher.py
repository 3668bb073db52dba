"""Sealing: each message opens once, in its order, under its key; everything else is a DecryptionError."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from offset_common.channel import cipher as cipher_module
from offset_common.channel.cipher import CipherState
from offset_common.errors import DecryptionError

KEY = bytes(range(32))
OTHER_KEY = bytes(32)
NONCE = bytes(12)


@pytest.fixture(params=["in place", "copying"], scope="module", autouse=True)
def aead(request: pytest.FixtureRequest) -> Iterator[None]:
    """Everything here holds with a cryptography of each kind: one that works in place, and an older one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "copying":
            patch.setattr(cipher_module, "_new_aead", cipher_module._CopyingAead)
        elif not hasattr(ChaCha20Poly1305, "decrypt_into"):
            pytest.skip("this cryptography does not work in place")
        yield


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 2**40))
def test_sealed_is_the_counter_as_nonce_and_rfc_8439_behind_it(plaintexts, start):
    cipher = CipherState(KEY, start)
    for counter, plaintext in enumerate(plaintexts, start):
        nonce = counter.to_bytes(12, "little")
        assert cipher.encrypt(plaintext) == nonce + ChaCha20Poly1305(KEY).encrypt(nonce, plaintext, None)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_sealed_messages_open_in_their_order(plaintexts):
    sealing, opening = CipherState(KEY), CipherState(KEY)
    sealed = [sealing.encrypt(plaintext) for plaintext in plaintexts]
    assert [opening.decrypt(payload) for payload in sealed] == plaintexts


@pytest.mark.parametrize("size", range(28))
def test_a_payload_under_28_bytes_is_a_seal_error(size):
    with pytest.raises(DecryptionError, match=f"of {size} bytes"):
        CipherState(KEY).decrypt(bytes(size))


def test_28_bytes_may_be_an_empty_message():
    payload = CipherState(KEY).encrypt(b"")
    assert len(payload) == 28
    assert CipherState(KEY).decrypt(payload) == b""


def test_each_flipped_bit_is_a_seal_error():
    payload = CipherState(KEY).encrypt(b"message")
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            CipherState(KEY).decrypt(bytes(flipped))


def test_a_message_of_another_key_is_a_seal_error():
    with pytest.raises(DecryptionError, match="does not decrypt"):
        CipherState(KEY).decrypt(CipherState(OTHER_KEY).encrypt(b"message"))


@pytest.mark.parametrize("counter", [0, 1, 3, 2**32, 2**96 - 1])
def test_a_replay_a_gap_or_another_nonce_is_a_seal_error(counter):
    with pytest.raises(DecryptionError, match="not message 2 "):
        CipherState(KEY, 2).decrypt(CipherState(KEY, counter).encrypt(b"message"))


def test_a_refused_message_does_not_count():
    sealing, opening = CipherState(KEY), CipherState(KEY)
    with pytest.raises(DecryptionError):
        opening.decrypt(CipherState(OTHER_KEY).encrypt(b"forged"))
    assert opening.decrypt(sealing.encrypt(b"true")) == b"true"


def test_sealing_and_opening_in_place_do_what_they_do_elsewhere():
    aead = CipherState(KEY).aead
    sealed, plain = bytearray(7 + 16), bytearray(7)
    aead.encrypt_into(NONCE, memoryview(b"message"), None, memoryview(sealed))
    assert sealed == ChaCha20Poly1305(KEY).encrypt(NONCE, b"message", None)
    aead.decrypt_into(NONCE, memoryview(sealed), None, memoryview(plain))
    assert plain == b"message"


def test_opening_in_place_refuses_a_bad_tag():
    sealed = bytearray(ChaCha20Poly1305(KEY).encrypt(NONCE, b"message", None))
    sealed[-1] ^= 1
    with pytest.raises(InvalidTag):
        CipherState(KEY).aead.decrypt_into(NONCE, memoryview(sealed), None, memoryview(bytearray(7)))
