"""The messages that the two sides send each other through a tunnel.

    kind (1 byte) || fields

    HELLO    to -> share   version (1), session (16), received (8), name of this machine
    WELCOME  share -> to   resumed (1), received (8), names, one a line: this machine's, then its services'
    WAITING  share -> to   the user is being asked
    REFUSED  share -> to   reason
    ACK      both          received (8)

    OPEN     to -> share   stream (4), name of the service
    DATA     both          stream (4), bytes
    END      both          stream (4); this direction is complete
    RESET    both          stream (4), reason; both directions were cut off
    CREDIT   both          stream (4), bytes (4) that may be sent in addition to those allowed before

`received` is the number of stream messages (OPEN to CREDIT) that a side has received in this session: the
other side sends later ones again. Numbers are big-endian; text is UTF-8, up to the end of the message.
"""

from __future__ import annotations

import enum
import re
import struct
from typing import Any, NamedTuple

from offset_common.errors import DecodeError

VERSION = 1
SESSION_SIZE = 16  # bytes
MAX_TEXT = 4096  # bytes of a name, a reason or a list of services
MAX_NAME = 32  # characters
HEADER = struct.Struct(">BI")  # of a stream message: kind, stream
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Kind(enum.IntEnum):
    """The first byte of a message."""

    HELLO = 0
    WELCOME = 1
    WAITING = 2
    REFUSED = 3
    ACK = 4
    OPEN = 16
    DATA = 17
    END = 18
    RESET = 19
    CREDIT = 20


class Hello(NamedTuple):
    """The first message of the side that connects.

    Args:
        session: 16 random bytes that identify the session.
        received: the stream messages received in it so far.
        name: this machine's name, or an empty string.
    """

    session: bytes
    received: int
    name: str

    def encode(self) -> bytes:
        """Return the message."""
        return _HELLO.pack(Kind.HELLO, VERSION, self.session, self.received) + self.name.encode()


class Welcome(NamedTuple):
    """The sharing side accepts the session.

    Args:
        resumed: whether it still knew the session; if not, all its streams are gone.
        received: the stream messages received in it so far.
        name: this machine's name, or an empty string.
        services: the names of the shared services.
    """

    resumed: bool
    received: int
    name: str
    services: tuple[str, ...]

    def encode(self) -> bytes:
        """Return the message."""
        names = "\n".join((self.name, *self.services))
        return _WELCOME.pack(Kind.WELCOME, self.resumed, self.received) + names.encode()


_HELLO = struct.Struct(f">BB{SESSION_SIZE}sQ")
_WELCOME = struct.Struct(">B?Q")
_ACK = struct.Struct(">BQ")
_CREDIT = struct.Struct(">BII")


def kind_of(message: bytes) -> Kind:
    """Return the kind of a message; raise DecodeError if it is unknown."""
    try:
        return Kind(message[0])
    except (IndexError, ValueError):
        raise DecodeError("the other side sent a message that stforward does not know") from None


def read_hello(message: bytes) -> Hello:
    """Read a HELLO; raise DecodeError if it is malformed or its version is not ours."""
    kind, version, session, received = _unpack(_HELLO, message)
    if kind != Kind.HELLO:
        raise DecodeError("the other side did not begin with a HELLO; check that it runs stforward")
    if version != VERSION:
        raise DecodeError(
            f"the other side uses version {version} of the messages, this one {VERSION}; update the older one"
        )
    return Hello(session, received, clean_name(_text(message, _HELLO.size)))


def read_welcome(message: bytes) -> Welcome:
    """Read a WELCOME; raise DecodeError if it is malformed."""
    _, resumed, received = _unpack(_WELCOME, message)
    name, *services = _text(message, _WELCOME.size).split("\n")
    return Welcome(resumed, received, clean_name(name), tuple(filter(None, map(clean_name, services))))


def encode_waiting() -> bytes:
    """Return a WAITING."""
    return bytes([Kind.WAITING])


def encode_refused(reason: str) -> bytes:
    """Return a REFUSED."""
    return bytes([Kind.REFUSED]) + reason.encode()


def read_refused(message: bytes) -> str:
    """Return the reason in a REFUSED."""
    return _text(message, 1)


def encode_ack(received: int) -> bytes:
    """Return an ACK."""
    return _ACK.pack(Kind.ACK, received)


def read_ack(message: bytes) -> int:
    """Return the number in an ACK; raise DecodeError if it is malformed."""
    if len(message) != _ACK.size:
        raise DecodeError("the other side sent an ACK of the wrong length")
    received: int = _ACK.unpack(message)[1]
    return received


def encode_stream(kind: Kind, stream: int, text: str = "") -> bytes:
    """Return an OPEN, an END or a RESET."""
    return HEADER.pack(kind, stream) + text.encode(errors="replace")  # a path may not be valid text


def encode_credit(stream: int, size: int) -> bytes:
    """Return a CREDIT for `size` bytes."""
    return _CREDIT.pack(Kind.CREDIT, stream, size)


def read_stream(message: bytes) -> int:
    """Return the stream of a stream message; raise DecodeError if it is too short."""
    stream: int = _unpack(HEADER, message)[1]
    return stream


def read_stream_text(message: bytes) -> str:
    """Return the text of an OPEN or a RESET; raise DecodeError if it is invalid."""
    return _text(message, HEADER.size)


def read_credit(message: bytes) -> int:
    """Return the bytes in a CREDIT; raise DecodeError if it is malformed."""
    if len(message) != _CREDIT.size:
        raise DecodeError("the other side sent a CREDIT of the wrong length")
    size: int = _CREDIT.unpack(message)[2]
    return size


def is_name(text: str) -> bool:
    """Return whether a string is valid as the name of a machine or a service."""
    return len(text) <= MAX_NAME and _NAME.fullmatch(text) is not None


def clean_name(text: str) -> str:
    """Return the part of someone else's name that is safe to show on a terminal."""
    found = _NAME.search(text)
    return found[0][:MAX_NAME] if found else ""


def _unpack(layout: struct.Struct, message: bytes) -> tuple[Any, ...]:
    if len(message) < layout.size:
        raise DecodeError("the other side sent a message that is too short")
    return layout.unpack_from(message)


def _text(message: bytes, start: int) -> str:
    if len(message) - start > MAX_TEXT:
        raise DecodeError(f"the other side sent text of more than {MAX_TEXT} bytes")
    try:
        return message[start:].decode()
    except UnicodeDecodeError:
        raise DecodeError("the other side sent text that is not UTF-8") from None
