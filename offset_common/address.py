"""Addresses as people and tickets write them: host:port, where the host is a name, IPv4 or [IPv6].

Source: docs/protocol.md sections 7.1 and 8.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

from offset_common.constants import MAX_ADDRESS_SIZE
from offset_common.errors import UsageError

MAX_PORT = 65535
MAX_NAME_SIZE = 253  # bytes of a host name, without the dot at its end
MAX_LABEL_SIZE = 63  # bytes between two dots of it
_QUOTED = 60  # characters of a refused address that an error shows


class Address(NamedTuple):
    """A host and a port, as socket.create_connection takes them; str() gives the text back.

    The host is as it was written, an IPv6 address without its brackets.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Refusal(Exception):
    """What is wrong with an address, as the rest of a sentence that begins with it."""


def parse_address(text: str) -> Address:
    """Read where something can be reached.

    Args:
        text: at most 256 bytes.

    Raises:
        UsageError: it cannot be an address; the text says why.
    """
    try:
        address = _parse(text)
        _check_reachable(address)
    except _Refusal as refusal:
        raise _usage_error(text, refusal) from None
    return address


def parse_listen_address(text: str) -> Address:
    """Read where to listen: port 0 (any free port), every interface and IPv6 zones are possible here.

    Args:
        text: at most 256 bytes.

    Raises:
        UsageError: it cannot be an address; the text says why.
    """
    try:
        if text.startswith(":") and text.count(":") == 1:
            raise _Refusal("has no host; for every interface write 0.0.0.0 or [::] before the port")
        return _parse(text)
    except _Refusal as refusal:
        raise _usage_error(text, refusal) from None


def _usage_error(text: str, refusal: _Refusal) -> UsageError:
    shown = text if len(text) <= _QUOTED else text[:_QUOTED] + "..."
    return UsageError(f"the address {shown!r} {refusal}")


def _check_reachable(address: Address) -> None:
    if address.port == 0:
        raise _Refusal(f"has port 0; ports are 1 to {MAX_PORT}")
    if "%" in address.host:
        raise _Refusal("has a zone (after the '%'), which means nothing on another machine")
    if address.host == "0.0.0.0" or (":" in address.host and IPv6Address(address.host).is_unspecified):
        raise _Refusal("is for listening on every interface; nobody can connect to it")


def _parse(text: str) -> Address:
    _check_characters(text)
    if text.startswith("["):
        host, port = _split_brackets(text)
        _check_ipv6(host)
    else:
        host, port = _split_name(text)
        _check_name(host)
    return Address(host, _parse_port(port))


def _check_characters(text: str) -> None:
    if not text:
        raise _Refusal("is empty")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_ADDRESS_SIZE:
        raise _Refusal(f"has {size} bytes; {MAX_ADDRESS_SIZE} is the most that an address may have")
    if not text.isprintable() or " " in text:
        raise _Refusal("has a space or a character that cannot be printed in it")
    if "://" in text:
        raise _Refusal("is a URL; leave out everything up to '://'")
    if "/" in text:
        raise _Refusal("has a '/' in it; only a host and a port belong here")


def _split_brackets(text: str) -> tuple[str, str]:
    host, bracket, rest = text[1:].partition("]")
    if not bracket:
        raise _Refusal("has a '[' without a ']'")
    if not rest:
        raise _Refusal("has no port; write it as in [2001:db8::1]:1337")
    if not rest.startswith(":"):
        raise _Refusal("has something other than ':' and a port after the ']'")
    return host, rest[1:]


def _split_name(text: str) -> tuple[str, str]:
    if text.count(":") > 1:
        raise _Refusal("has more than one ':'; an IPv6 address goes in brackets, as in [2001:db8::1]:1337")
    host, colon, port = text.partition(":")
    if not colon:
        raise _Refusal("has no port; write it as in relay.example.com:1337")
    if not host:
        raise _Refusal("has no host before the ':'")
    return host, port


def _parse_port(text: str) -> int:
    if not text:
        raise _Refusal("has no port after the ':'")
    if not re.fullmatch(r"[0-9]+", text):
        raise _Refusal(f"has the port {text!r}, which is not a number")
    if text.startswith("0") and text != "0":
        raise _Refusal(f"has the port {text}, which starts with a zero")
    if int(text) > MAX_PORT:
        raise _Refusal(f"has the port {text}; ports are 1 to {MAX_PORT}")
    return int(text)


def _check_ipv6(host: str) -> None:
    try:
        IPv6Address(host)
    except ValueError:
        raise _Refusal(f"has {host!r} in the brackets, which is not an IPv6 address") from None


def _check_name(host: str) -> None:
    name = host if host.isascii() else _encode_name(host)
    name = name[:-1] if name.endswith(".") else name
    if len(name) > MAX_NAME_SIZE:
        raise _Refusal(f"has a host name of {len(name)} bytes; {MAX_NAME_SIZE} is the most that DNS takes")
    labels = name.split(".")
    for label in labels:
        _check_label(label)
    # A name never ends in a number (RFC 1123, section 2.1), so this is meant as IPv4.
    if re.fullmatch(r"[0-9]+", labels[-1]):
        _check_ipv4(host)


def _encode_name(host: str) -> str:
    try:
        return host.encode("idna").decode("ascii")
    except UnicodeError:
        raise _Refusal(f"has the host name {host!r}, which DNS cannot hold") from None


def _check_label(label: str) -> None:
    if not label:
        raise _Refusal("has a host name with nothing before, after or between its dots")
    if len(label) > MAX_LABEL_SIZE:
        raise _Refusal(
            f"has {len(label)} bytes between two dots; {MAX_LABEL_SIZE} is the most that DNS takes"
        )
    stray = re.search(r"[^A-Za-z0-9_-]", label)
    if stray:
        raise _Refusal(f"has {stray.group()!r} in its host name")
    if label.startswith("-") or label.endswith("-"):
        raise _Refusal("has a '-' at the start or end of a part of its host name")


def _check_ipv4(host: str) -> None:
    try:
        IPv4Address(host)
    except ValueError:
        raise _Refusal(
            f"has the host {host!r}, which is meant as IPv4 but is not four numbers of 0 to 255"
        ) from None
