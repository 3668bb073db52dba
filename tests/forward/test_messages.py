"""offset_common/forward/messages.py: what the two sides send each other."""

from __future__ import annotations

from typing import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offset_common.errors import DecodeError
from offset_common.forward import messages
from offset_common.forward.messages import Hello, Kind, Welcome, clean_name, is_name, read_hello, read_welcome

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,31}\Z")
COUNTS = st.integers(0, 2**64 - 1)
READERS: list[Callable[[bytes], object]] = [
    messages.kind_of,
    messages.read_hello,
    messages.read_welcome,
    messages.read_refused,
    messages.read_ack,
    messages.read_stream,
    messages.read_stream_text,
    messages.read_credit,
]


@given(st.binary(min_size=16, max_size=16), COUNTS, st.just("") | NAMES)
def test_hello_round_trip(session: bytes, received: int, name: str) -> None:
    hello = Hello(session, received, name)
    assert read_hello(hello.encode()) == hello


@given(st.booleans(), COUNTS, st.just("") | NAMES, st.lists(NAMES).map(tuple))
def test_welcome_round_trip(resumed: bool, received: int, name: str, services: tuple[str, ...]) -> None:
    welcome = Welcome(resumed, received, name, services)
    assert read_welcome(welcome.encode()) == welcome


@pytest.mark.parametrize("read", READERS)
@given(st.binary(max_size=80))
def test_any_bytes_are_a_value_or_a_decode_error(read: Callable[[bytes], object], data: bytes) -> None:
    try:
        read(data)
    except DecodeError:
        pass


@pytest.mark.parametrize("read", [messages.read_refused, messages.read_stream_text, messages.read_hello])
def test_endless_text_is_refused(read: Callable[[bytes], object]) -> None:
    with pytest.raises(DecodeError, match="4096 bytes"):
        read(Hello(bytes(16), 0, "").encode() + b"x" * 10_000)


def test_other_version_is_reported() -> None:
    hello = bytearray(Hello(bytes(16), 0, "x").encode())
    hello[1] = 7
    with pytest.raises(DecodeError, match=r"version 7 of the messages, .*; update the older one"):
        read_hello(bytes(hello))


@given(st.text())
def test_names_of_others_cannot_change_a_terminal(text: str) -> None:
    name = clean_name(text)
    assert name == "" or is_name(name)
    assert name.isascii() and name.isprintable()


def test_layout_is_as_documented() -> None:
    assert messages.encode_ack(258) == bytes([4, 0, 0, 0, 0, 0, 0, 1, 2])
    assert messages.encode_stream(Kind.OPEN, 1, "ssh") == b"\x10\0\0\0\x01ssh"
    assert messages.encode_credit(2, 3) == b"\x14\0\0\0\x02\0\0\0\x03"
    assert Hello(b"s" * 16, 1, "me").encode() == b"\0\x01" + b"s" * 16 + bytes(7) + b"\x01me"
    assert Welcome(True, 2, "it", ("a", "b")).encode() == b"\x01\x01" + bytes(7) + b"\x02it\na\nb"
