"""offset_common/forward/code.py: codes are short, and damage is detected."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.address import Address
from offset_common.errors import UsageError
from offset_common.forward.code import Code, looks_like_code, parse_code
from offset_common.tickets import RelayTicket

KEYS = st.binary(min_size=32, max_size=32)
HOSTS = st.sampled_from(["relay.example.com", "192.0.2.1", "2001:db8::1", "a", "x" * 63 + ".de"])
EXAMPLE = Code(RelayTicket(bytes(range(32)), Address("relay.example.com", 4567)), bytes(range(32, 64)))


@given(relay=KEYS, machine=KEYS, host=HOSTS, port=st.integers(1, 65535))
def test_code_restores_relay_and_key(relay: bytes, machine: bytes, host: str, port: int) -> None:
    code = Code(RelayTicket(relay, Address(host, port)), machine)
    assert looks_like_code(str(code))
    assert parse_code(str(code)) == code


def test_code_is_short_and_one_word() -> None:
    assert len(str(EXAMPLE)) < 130
    assert str(EXAMPLE).replace("-", "").replace("_", "").isalnum()
    assert str(EXAMPLE)[0].isalpha()


@given(st.data())
def test_changed_code_is_refused(data: st.DataObject) -> None:
    text = str(EXAMPLE)
    at = data.draw(st.integers(3, len(text) - 2))  # the last character has unused bits
    other = data.draw(st.sampled_from("ABCabc019-_").filter(lambda character: character != text[at]))
    with pytest.raises(UsageError):
        parse_code(text[:at] + other + text[at + 1 :])


@given(st.integers(0, len(str(EXAMPLE)) - 1))
def test_cut_code_is_refused(size: int) -> None:
    with pytest.raises(UsageError):
        parse_code(str(EXAMPLE)[:size])


@pytest.mark.parametrize(
    "text", ["", "of1", "of1" + "A" * 100, "of1" + "A" * 100_000, "of1é", "of1 x", "home"]
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_code(text)


def test_code_of_a_later_version_asks_for_a_newer_program() -> None:
    with pytest.raises(UsageError, match="newer stforward"):
        parse_code("of2" + str(EXAMPLE)[3:])
