"""Peer addresses: the text to show, and the prefix that limits apply to."""

from __future__ import annotations

import ipaddress
from typing import Any, NamedTuple

SystemAddress = tuple[Any, ...]
"""An address as socket.accept returns it: (host, port) or (host, port, flow, scope)."""

_IPV4_MAPPED = "::ffff:"


class PeerAddress(NamedTuple):
    """The address of a peer.

    Args:
        text: "host:port" or "[host]:port".
        prefix: the IPv4 address, or the IPv6 prefix with its length, that limits and fairness apply to.
        host: the address alone, without a zone; empty if nothing needs it.
    """

    text: str
    prefix: str
    host: str = ""


def peer_address(address: SystemAddress, ipv6_prefix: int = 128) -> PeerAddress:
    """Return the address of an accepted connection.

    Args:
        address: from socket.accept.
        ipv6_prefix: length in bits of the IPv6 prefixes that count as one address each; 128 for none.
    """
    host: str = address[0]
    if host.startswith(_IPV4_MAPPED) and "." in host:
        host = host[len(_IPV4_MAPPED) :]
    if ":" not in host:
        return PeerAddress(f"{host}:{address[1]}", host, host)
    plain = host.split("%")[0]
    network = ipaddress.IPv6Network((plain, ipv6_prefix), strict=False)
    return PeerAddress(f"[{host}]:{address[1]}", str(network), plain)


def show_address(address: SystemAddress) -> str:
    """Return the address as "host:port" or "[host]:port"."""
    return peer_address(address).text
