"""offset_common/forward/streams.py: streams, their credit, and what a side must not do."""

from __future__ import annotations

from typing import Optional, Union

import pytest

from offset_common.errors import DecodeError
from offset_common.forward.messages import Kind, encode_credit, encode_stream
from offset_common.forward.streams import WINDOW, Stream, Streams, StreamUser


class User:
    """Keeps what its stream reports."""

    def __init__(self) -> None:
        self.stream: Optional[Stream] = None
        self.events: list[object] = []

    def on_open(self, stream: Stream) -> None:
        self.stream = stream

    def on_data(self, data: memoryview) -> None:
        self.events.append(bytes(data))

    def on_end(self) -> None:
        self.events.append("end")

    def on_reset(self, reason: str) -> None:
        self.events.append(("reset", reason))

    def on_credit(self) -> None:
        self.events.append("credit")


class Side:
    """One side, with the messages that it sends."""

    def __init__(self, opens: bool) -> None:
        self.sent: list[bytes] = []
        self.users: list[User] = []
        self.streams = Streams(self.sent.append, None if opens else self.accept)

    def accept(self, service: str) -> Union[StreamUser, str]:
        """Accept streams to one service."""
        if service != "ssh":
            return "no such service"
        self.users.append(User())
        return self.users[-1]


def data(number: int, content: bytes) -> bytes:
    return encode_stream(Kind.DATA, number) + content


def opened() -> tuple[Side, User]:
    """Return the sharing side with one stream, and its user."""
    side = Side(opens=False)
    side.streams.receive(encode_stream(Kind.OPEN, 1, "ssh"))
    return side, side.users[0]


def test_open_side_and_accepting_side_agree() -> None:
    near, far, user = Side(opens=True), Side(opens=False), User()
    near.streams.open("ssh", user)
    assert user.stream is not None
    user.stream.send_data(user.stream.header + b"hello")
    user.stream.send_end()
    for message in near.sent:
        far.streams.receive(message)
    assert far.users[0].events == [b"hello", "end"]
    assert far.users[0].stream is not None
    far.users[0].stream.send_end()
    near.streams.receive(far.sent[-1])
    assert user.events == ["end"]
    assert len(near.streams) == len(far.streams) == 0


def test_refused_service_is_reset_with_the_reason() -> None:
    side = Side(opens=False)
    side.streams.receive(encode_stream(Kind.OPEN, 1, "telnet"))
    assert side.sent == [encode_stream(Kind.RESET, 1, "no such service")]
    assert len(side.streams) == 0


def test_credit_comes_back_as_bytes_are_written() -> None:
    side, user = opened()
    assert user.stream is not None
    side.streams.receive(data(1, bytes(WINDOW)))
    assert side.sent == []
    user.stream.return_credit(WINDOW)
    assert side.sent == [encode_credit(1, WINDOW)]
    side.streams.receive(data(1, bytes(WINDOW)))


def test_messages_of_a_reset_stream_are_ignored() -> None:
    side, user = opened()
    assert user.stream is not None
    user.stream.reset("too slow")
    side.streams.receive(data(1, b"on its way"))
    side.streams.receive(encode_stream(Kind.END, 1))
    assert user.events == []


FORBIDDEN = {
    "data without credit": [data(1, bytes(WINDOW)), data(1, b"x")],
    "empty data": [data(1, b"")],
    "data after the end": [encode_stream(Kind.END, 1), data(1, b"x")],
    "second end": [encode_stream(Kind.END, 1), encode_stream(Kind.END, 1)],
    "end with content": [encode_stream(Kind.END, 1, "x")],
    "credit that was not used": [encode_credit(1, 1)],
    "credit of a wrong length": [encode_stream(Kind.CREDIT, 1)],
    "stream that was never opened": [data(2, b"x")],
    "stream 0": [data(0, b"x")],
    "number used twice": [encode_stream(Kind.OPEN, 1, "ssh")],
    "reason that is not text": [encode_stream(Kind.RESET, 1) + b"\xff"],
    "unknown kind": [b"\x99\0\0\0\1"],
    "nothing": [b""],
    "half a header": [b"\x11\0"],
}


@pytest.mark.parametrize("messages", FORBIDDEN.values(), ids=list(FORBIDDEN))
def test_forbidden_message_is_an_error(messages: list[bytes]) -> None:
    side, _ = opened()
    for message in messages[:-1]:
        side.streams.receive(message)
    with pytest.raises(DecodeError):
        side.streams.receive(messages[-1])


def test_only_the_connecting_side_may_open() -> None:
    with pytest.raises(DecodeError):
        Side(opens=True).streams.receive(encode_stream(Kind.OPEN, 1, "ssh"))
