"""Each message decrypts once, in order, under its key; everything else is a DecryptionError."""

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
    """Run every test with the in-place cipher of new versions of cryptography and with the copying one."""
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "copying":
            patch.setattr(cipher_module, "_new_aead", cipher_module._CopyingAead)
        elif not hasattr(ChaCha20Poly1305, "decrypt_into"):
            pytest.skip("this version of cryptography has no in-place methods")
        yield


@given(st.lists(st.binary(max_size=200), max_size=5), st.integers(0, 2**40))
def test_encryption_is_the_counter_and_rfc_8439(plaintexts, start):
    cipher = CipherState(KEY, start)
    for counter, plaintext in enumerate(plaintexts, start):
        nonce = counter.to_bytes(12, "little")
        assert cipher.encrypt(plaintext) == nonce + ChaCha20Poly1305(KEY).encrypt(nonce, plaintext, None)


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_messages_decrypt_in_order(plaintexts):
    sending, receiving = CipherState(KEY), CipherState(KEY)
    encrypted = [sending.encrypt(plaintext) for plaintext in plaintexts]
    assert [receiving.decrypt(payload) for payload in encrypted] == plaintexts


@pytest.mark.parametrize("size", [0, 11, 12, 27])
def test_payload_under_28_bytes_is_refused(size):
    with pytest.raises(DecryptionError, match=f"of {size} bytes"):
        CipherState(KEY).decrypt(bytes(size))


def test_each_flipped_bit_is_refused():
    payload = CipherState(KEY).encrypt(b"message")
    for bit in range(8 * len(payload)):
        flipped = bytearray(payload)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DecryptionError):
            CipherState(KEY).decrypt(bytes(flipped))


@pytest.mark.parametrize("counter", [0, 1, 3, 2**32, 2**96 - 1])
def test_any_other_counter_is_refused(counter):
    with pytest.raises(DecryptionError, match="the nonce is not 2,"):
        CipherState(KEY, 2).decrypt(CipherState(KEY, counter).encrypt(b"message"))


def test_refused_message_does_not_count():
    sending, receiving = CipherState(KEY), CipherState(KEY)
    with pytest.raises(DecryptionError):
        receiving.decrypt(CipherState(OTHER_KEY).encrypt(b"forged"))
    assert receiving.decrypt(sending.encrypt(b"true")) == b"true"


def test_encryption_in_place_is_the_same():
    aead = CipherState(KEY).new_aead()
    encrypted, plain = bytearray(7 + 16), bytearray(7)
    aead.encrypt_into(NONCE, memoryview(b"message"), None, memoryview(encrypted))
    assert encrypted == ChaCha20Poly1305(KEY).encrypt(NONCE, b"message", None)
    aead.decrypt_into(NONCE, memoryview(encrypted), None, memoryview(plain))
    assert plain == b"message"


def test_opening_in_place_refuses_a_bad_tag():
    encrypted = bytearray(ChaCha20Poly1305(KEY).encrypt(NONCE, b"message", None))
    encrypted[-1] ^= 1
    with pytest.raises(InvalidTag):
        CipherState(KEY).new_aead().decrypt_into(NONCE, memoryview(encrypted), None, memoryview(bytearray(7)))
