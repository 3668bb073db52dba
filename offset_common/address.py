"""Addresses in text form: host:port, where the host is a name, an IPv4 address or an [IPv6] address.

Source: docs/protocol.md sections 7.1 and 8.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple, Optional, Union

from offset_common.constants import MAX_ADDRESS_SIZE
from offset_common.errors import UsageError, quote

MAX_PORT = 65535
MAX_NAME_SIZE = 253  # bytes of a host name, without a trailing dot
MAX_LABEL_SIZE = 63  # bytes of one part of a host name


class Address(NamedTuple):
    """A host and a port, as socket.create_connection accepts them; str() restores the parsed text.

    Args:
        host: as written; an IPv6 address without its brackets.
        port: 0 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Invalid(Exception):
    """The reason why an address is invalid: the end of a sentence that starts with the address."""


def parse_address(text: str) -> Address:
    """Parse an address to connect to.

    Args:
        text: host:port, at most 256 bytes.

    Raises:
        UsageError: the address is invalid, or only usable for listening.
    """
    with _explaining(text):
        if text.isascii() and text.isdigit():
            raise _Invalid(f"is only a port; write a host before it, as in relay.example.com:{text}")
        address = _parse(text)
        _check_reachable(address)
    return address


def parse_public_address(text: str) -> Address:
    """Parse the address for a new ticket, which must resolve everywhere.

    Args:
        text: host:port, at most 256 bytes.

    Raises:
        UsageError: the address is invalid, only usable for listening or on one link, or has '_' in its name.
    """
    address = parse_address(text)
    with _explaining(text):
        if "_" in address.host:
            raise _Invalid(
                "has '_' in its host name, which not every resolver accepts; use letters, digits and '-'"
            )
        if _is_link_local(address.host):
            raise _Invalid("is valid on one link only (fe80::/10); give another address of that machine")
        _check_single_host(address.host)
    return address


def parse_ticket_address(text: str) -> Address:
    """Parse the address in a ticket that may already be in use.

    An IPv6 address may lack its brackets: the port is after the last colon, as for the original programs.

    Args:
        text: host:port, at most 256 bytes.

    Raises:
        UsageError: the address is invalid, or only usable for listening.
    """
    with _explaining(text):
        address = _split_bare_ipv6(text) or _parse(text)
        _check_reachable(address)
    return address


def parse_listen_address(text: str) -> Address:
    """Parse an address to listen on; it may have port 0, be a wildcard or have an IPv6 zone.

    Args:
        text: host:port, at most 256 bytes.

    Raises:
        UsageError: the address is invalid.
    """
    with _explaining(text):
        if text.isascii() and text.lstrip(":").isdigit() and text.count(":") <= 1:
            port = text.lstrip(":")
            raise _Invalid(f"is only a port and has no host; {_wildcards(port)}")
        if text.startswith("*:") and text[2:].isdigit():
            raise _Invalid(f"has '*' in its host name; {_wildcards(text[2:])}")
        if text.startswith(":") and text.count(":") == 1:
            raise _Invalid("has no host; write 0.0.0.0 or [::] before the port to listen on every interface")
        address = _parse(text, lowest_port=0)
        if _is_link_local(address.host) and "%" not in address.host:
            raise _Invalid(
                "is valid on one link only; add the interface of this link, as in"
                f" [{address.host}%eth0]:{address.port}"
            )
        _check_single_host(address.host)
    return address


def _wildcards(port: str) -> str:
    return f"write 0.0.0.0:{port} to listen on every IPv4 address, or [::]:{port} for IPv6 too"


@contextmanager
def _explaining(text: str) -> Iterator[None]:
    """Raise the reason why an address is invalid as a UsageError that names the address."""
    try:
        yield
    except _Invalid as invalid:
        raise UsageError(f"the address {quote(text)} {invalid}") from None


def _check_reachable(address: Address) -> None:
    if address.port == 0:
        raise _Invalid(f"has port 0; use a port from 1 to {MAX_PORT}")
    if "%" in address.host:
        raise _Invalid("has an IPv6 zone, which is valid on one machine only; give an address without a '%'")
    if address.host == "0.0.0.0" or (":" in address.host and IPv6Address(address.host).is_unspecified):
        raise _Invalid("can only be used for listening; give an address that peers can connect to")


def _check_single_host(host: str) -> None:
    """Refuse multicast and broadcast addresses: Linux allows listening on them, but no peer can connect."""
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return  # a name
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise _Invalid(
            "is a multicast or broadcast address, which nobody can connect to; give an address of one host"
        )


def _is_link_local(host: str) -> bool:
    return ":" in host and IPv6Address(host).is_link_local


def _parse(text: str, lowest_port: int = 1) -> Address:
    _check_characters(text)
    if text.startswith("["):
        host, port = _split_brackets(text)
        _check_ip(host, IPv6Address, f"has {host!r} in brackets, which is not an IPv6 address")
    else:
        host, port = _split_name(text)
        _check_name(host)
    return Address(host, _parse_port(port, lowest_port))


def _check_characters(text: str) -> None:
    if not text:
        raise _Invalid("is empty")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > MAX_ADDRESS_SIZE:
        raise _Invalid(f"is {size} bytes long; the maximum is {MAX_ADDRESS_SIZE}")
    if not text.isprintable() or " " in text:
        raise _Invalid("contains a space or an unprintable character; remove it")
    if "://" in text:
        raise _Invalid("is a URL; remove everything up to '://'")
    if "/" in text:
        raise _Invalid("contains a '/'; write only a host and a port")


def _split_brackets(text: str) -> tuple[str, str]:
    host, bracket, rest = text[1:].partition("]")
    if not bracket:
        raise _Invalid("has a '[' but no ']'; write it as in [2001:db8::1]:4567")
    if not rest:
        raise _Invalid("has no port; write it as in [2001:db8::1]:4567")
    if not rest.startswith(":"):
        raise _Invalid("must have ':' and a port after the ']'")
    return host, rest[1:]


def _split_bare_ipv6(text: str) -> Optional[Address]:
    """Return the address if the text is an IPv6 address without brackets, ':' and a port; None otherwise."""
    host, _, port = text.rpartition(":")
    if ":" not in host or host.startswith("["):
        return None
    _check_characters(text)
    try:
        IPv6Address(host)
    except ValueError:
        return None
    return Address(host, _parse_port(port))


def _split_name(text: str) -> tuple[str, str]:
    if text.count(":") > 1:
        try:
            example = str(_split_bare_ipv6(text) or "[2001:db8::1]:4567")
        except _Invalid:
            example = "[2001:db8::1]:4567"
        raise _Invalid(f"has more than one ':'; put an IPv6 address in brackets, as in {example}")
    host, colon, port = text.partition(":")
    if not colon:
        raise _Invalid(f"has no port; write it as in {text}:4567")
    if not host:
        raise _Invalid("has no host before the ':'; write it as in relay.example.com:4567")
    return host, port


def _parse_port(text: str, lowest: int = 1) -> int:
    if not text:
        raise _Invalid("has no port after the ':'; write it as in relay.example.com:4567")
    if not re.fullmatch(r"[0-9]+", text):
        raise _Invalid(f"has the port {text!r}, which is not a number")
    if text.startswith("0") and text != "0":
        raise _Invalid(f"has the port {text}, which starts with a zero; remove the zero")
    if int(text) > MAX_PORT:
        raise _Invalid(f"has the port {text}; use a port from {lowest} to {MAX_PORT}")
    return int(text)


def _check_ip(host: str, kind: type[Union[IPv4Address, IPv6Address]], reason: str) -> None:
    try:
        kind(host)
    except ValueError:
        raise _Invalid(reason) from None


def _check_name(host: str) -> None:
    if not host.isascii():
        raise _Invalid(_ascii_advice(host))
    name = host[:-1] if host.endswith(".") else host
    if len(name) > MAX_NAME_SIZE:
        raise _Invalid(f"has a host name of {len(name)} bytes; the DNS maximum is {MAX_NAME_SIZE}")
    labels = name.split(".")
    for label in labels:
        _check_label(label)
    # A host name never ends in a number (RFC 1123, section 2.1), so this must be an IPv4 address.
    if re.fullmatch(r"[0-9]+", labels[-1]):
        _check_ip(host, IPv4Address, f"has the host {host!r}, which is not an IPv4 address")


def _ascii_advice(host: str) -> str:
    """Return how to write a name in ASCII, as the end of a sentence that starts with the address.

    Source: RFC 3490 (IDNA 2003) and RFC 5891 (IDNA 2008). Python has the older standard only.
    """
    try:
        older = host.encode("idna").decode("ascii").lower()
    except UnicodeError:
        return (
            "has a host name that is not valid in DNS; check its spelling, or write its ASCII form (xn--...)"
        )
    newer = _idna_2008(host)
    _check_name(older)
    _check_name(newer)
    if newer == older:
        return f"has a name outside ASCII, which released nodes cannot resolve; write {newer}"
    return (
        "has a name outside ASCII, which released nodes cannot resolve, and the standards disagree:"
        f" write {newer} (IDNA 2008) or {older} (IDNA 2003), whichever is registered"
    )


def _idna_2008(host: str) -> str:
    """Return a valid name in ASCII by IDNA 2008, which unlike IDNA 2003 keeps sharp s and final sigma."""
    lower = "".join(character.lower() for character in host)  # str.lower treats a final sigma differently
    name = unicodedata.normalize("NFKC", lower).replace("\u3002", ".")
    return ".".join(
        label if label.isascii() else "xn--" + label.encode("punycode").decode("ascii")
        for label in name.split(".")
    )


def _check_label(label: str) -> None:
    if not label:
        raise _Invalid("has a host name with an empty part; remove the extra dot")
    if len(label) > MAX_LABEL_SIZE:
        raise _Invalid(f"has a host name part of {len(label)} bytes; the DNS maximum is {MAX_LABEL_SIZE}")
    stray = re.search(r"[^A-Za-z0-9_-]", label)
    if stray:
        raise _Invalid(f"has {stray.group()!r} in its host name; use letters, digits, '-' and '_'")
    if label.startswith("-") or label.endswith("-"):
        raise _Invalid("has a host name part that starts or ends with '-'; remove it")
