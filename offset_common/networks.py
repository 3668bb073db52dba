"""IP networks as text, 192.0.2.0/24 or 2001:db8::/32, sets of them, and the addresses of names."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence
from typing import Any, Union

from offset_common.errors import UsageError, quote

Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

AddressInfo = tuple[Any, Any, int, str, Any]
"""One result of socket.getaddrinfo; the last item is the address for `connect`."""


def is_loopback(host: str) -> bool:
    """Return whether an IP address, with or without a zone, is one that only this machine can reach."""
    return ipaddress.ip_address(host.partition("%")[0]).is_loopback


def usable_results(host: str, found: Iterable[AddressInfo]) -> list[AddressInfo]:
    """Return the results of getaddrinfo whose addresses are text.

    For an IPv6 address, a Python that was built without IPv6 returns a number and bytes.

    Args:
        host: the name that was looked up.
        found: the results.

    Raises:
        OSError: there are no such results.
    """
    usable = [each for each in found if isinstance(each[4][0], str)]
    if not usable:
        raise OSError(f"the name {host} has IPv6 addresses only, but this Python has no IPv6")
    return usable


def names_this_host(host: str, addresses: Sequence[str]) -> bool:
    """Return whether `host` is a name, other than localhost, that leads only to this host itself.

    Debian's installer puts the host's own name into /etc/hosts, with the address 127.0.1.1.

    Args:
        host: a name or an IP address.
        addresses: its IP addresses.
    """
    return host not in ("localhost", *addresses) and all(map(is_loopback, addresses))


def parse_network(text: str) -> Network:
    """Return the network that a string describes; an address alone is a network of one.

    Args:
        text: ADDRESS/PREFIX, such as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1.

    Raises:
        UsageError: the text is not a network.
    """
    shown = quote(text)
    address, _, length = text.partition("/")
    try:
        host = ipaddress.ip_address(address)
    except ValueError:
        raise UsageError(f"{shown} is not an IP address; write it as 192.0.2.0/24 or 2001:db8::/32") from None
    if isinstance(host, ipaddress.IPv6Address) and (
        host.ipv4_mapped is not None or host.scope_id is not None
    ):
        raise UsageError(f"{shown} is not a plain IPv6 address; write IPv4 as in 192.0.2.0/24, and no zone")
    most = host.max_prefixlen
    if "/" not in text:
        length = str(most)
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= most):
        raise UsageError(f"{shown} has no valid prefix length; write a number from 0 to {most} after the /")
    network = ipaddress.ip_network((address, int(length)), strict=False)
    if network.network_address != host:
        raise UsageError(f"{shown} has bits beyond its prefix; write {network}")
    return network


class NetworkSet:
    """A set of networks: `address in networks`. A lookup among thousands takes no longer than among a few.

    Args:
        networks: in any order; they may overlap.
    """

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        # The prefixes of the networks as numbers, by IP version and number of bits after the prefix.
        self._prefixes: dict[tuple[int, int], set[int]] = {}
        for network in networks:
            bits = network.max_prefixlen - network.prefixlen
            prefixes = self._prefixes.setdefault((network.version, bits), set())
            prefixes.add(int(network.network_address) >> bits)

    def __len__(self) -> int:
        """Return the number of different networks."""
        return sum(map(len, self._prefixes.values()))

    def __contains__(self, host: str) -> bool:
        """Return whether an address is in one of the networks.

        Args:
            host: an IPv4 or IPv6 address, without port and zone.
        """
        if not self._prefixes:
            return False
        address = ipaddress.ip_address(host)
        number = int(address)
        return any(
            number >> bits in prefixes
            for (version, bits), prefixes in self._prefixes.items()
            if version == address.version
        )
