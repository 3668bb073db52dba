"""Identities, keys as text, and the identity file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.errors import UsageError
from offset_common.identity import (
    Identity,
    decode_key,
    encode_key,
    load_identity,
    save_identity,
    short_key,
    verify_signature,
)

FILES = Path(__file__).parent / "vectors" / "files"

# RFC 8032, section 7.1, test 2: seed, public key, message, signature.
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC_KEY = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
MESSAGE = bytes.fromhex("72")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


def test_keys_and_signatures_match_rfc_8032():
    identity = Identity.from_seed(SEED)
    assert identity.public_key == PUBLIC_KEY
    assert identity.sign(MESSAGE) == SIGNATURE
    assert identity.seed == SEED


@pytest.mark.parametrize("seed", [b"", bytes(31), bytes(33)])
def test_a_seed_of_another_length_is_rejected(seed):
    with pytest.raises(ValueError):
        Identity.from_seed(seed)


def test_repr_does_not_show_the_private_key():
    identity = Identity.from_seed(SEED)
    for shown in (repr(identity), str(identity), f"{identity}"):
        assert encode_key(PUBLIC_KEY) in shown
        assert encode_key(SEED) not in shown
        assert SEED.hex() not in shown


def test_a_changed_signature_is_invalid():
    assert verify_signature(PUBLIC_KEY, SIGNATURE, MESSAGE)
    assert not verify_signature(PUBLIC_KEY, SIGNATURE, MESSAGE + b"x")
    assert not verify_signature(Identity.generate().public_key, SIGNATURE, MESSAGE)
    for bit in (0, 255, 256, 511):
        bent = bytearray(SIGNATURE)
        bent[bit // 8] ^= 1 << bit % 8
        assert not verify_signature(PUBLIC_KEY, bytes(bent), MESSAGE)


@pytest.mark.parametrize(
    ("public_key", "signature"),
    [
        (PUBLIC_KEY[:-1], SIGNATURE),
        (PUBLIC_KEY, SIGNATURE[:-1]),
        (PUBLIC_KEY, SIGNATURE + b"\0"),
        (b"\xff" * 32, SIGNATURE),
    ],
)
def test_malformed_keys_and_signatures_are_invalid(public_key, signature):
    assert not verify_signature(public_key, signature, MESSAGE)


@pytest.mark.parametrize("name", ["relay.ident", "app.ident"])
def test_identity_files_match_the_original(name, tmp_path):
    save_identity(load_identity(FILES / name), tmp_path / name)
    assert (tmp_path / name).read_bytes() == (FILES / name).read_bytes()


@given(st.binary(max_size=80))
def test_decoding_restores_an_encoded_key(key):
    assert decode_key(encode_key(key), len(key)) == key
    assert encode_key(key).startswith(short_key(key))
    assert len(short_key(key)) == min(8, len(encode_key(key)))


KEY_TEXT = "XU-6phI6qBnJEL_LsWOlm750bF1ud0MPNFC3B7sVtos"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (KEY_TEXT[:-1], "has 42 characters; a 32-byte key has 43"),
        (KEY_TEXT + "=", "without padding"),
        (KEY_TEXT.replace("-", "+"), "URL alphabet"),
        (KEY_TEXT.replace("_", "/"), "URL alphabet"),
        (KEY_TEXT.replace("-", " "), "is not base64: character 3 is invalid"),
        (KEY_TEXT + "\n", "is not base64: character 44 is invalid"),
        (KEY_TEXT[:-1] + "t", "its last character is invalid"),
    ],
)
def test_an_invalid_key_is_explained_but_not_shown(text, reason):
    with pytest.raises(UsageError) as caught:
        decode_key(text, 32)
    assert reason in str(caught.value)
    assert KEY_TEXT[5:15] not in str(caught.value)


@given(st.text(alphabet="ABCDwxyz0189-_+/= \n", max_size=50))
def test_a_key_has_exactly_one_valid_text(text):
    try:
        key = decode_key(text, 32)
    except UsageError:
        return
    assert encode_key(key) == text


def test_unknown_fields_are_ignored(tmp_path):
    path = tmp_path / "a.ident"
    path.write_text(json.dumps({"name": "mine", "privateKey": encode_key(SEED), "more": [{}]}))
    assert load_identity(path).seed == SEED
