"""Who is connected from where: the limits in all, for each address and for each key.

A connection is unproven until its handshake is done, then roleless until its InitConnection,
then settled. At a limit the unproven give way first, oldest first, then the roleless. When an
address is full of settled connections a newcomer may still prove itself: if some key
holds more connections there than the newcomer's, that key's newest one gives way.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Optional

from offset_common.relay.limits import Limits
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason

Address = tuple[Any, ...]
"""What socket.accept gives: (host, port) or (host, port, flow, scope)."""

OVERDRAFT = 16  # unproven connections that may enter although their address is full

_MAPPED = "::ffff:"


def origin_of(address: Address) -> str:
    """Return what limits for each address count by: an IPv4 address, or an IPv6 /64."""
    host: str = address[0]
    if ":" not in host:
        return host
    if host.startswith(_MAPPED) and "." in host:
        return host[len(_MAPPED) :]
    number = int(ipaddress.IPv6Address(host.split("%")[0]))
    return str(ipaddress.IPv6Address(number >> 64 << 64)) + "/64"


def show_address(address: Address) -> str:
    """Return the address as "host:port" or "[host]:port"."""
    host, port = address[0], address[1]
    if host.startswith(_MAPPED) and "." in host:
        host = host[len(_MAPPED) :]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _Use:
    """The connections of one origin."""

    __slots__ = ("count", "keys", "roleless", "unproven")

    def __init__(self) -> None:
        self.count = 0
        self.unproven: dict[Link, None] = {}  # oldest first, without those in the pool
        self.roleless: dict[Link, None] = {}
        self.keys: dict[bytes, dict[Link, None]] = {}


class Origins:
    """All connections of a relay, from acceptance to end.

    Args:
        limits: in all, for each address, for each key.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._links: dict[Link, None] = {}
        self._uses: dict[str, _Use] = {}
        self._unproven: dict[Link, None] = {}
        self._roleless: dict[Link, None] = {}
        self._in_pool = 0
        self._of_key: dict[bytes, int] = {}

    def __len__(self) -> int:
        """The connections there are."""
        return len(self._links)

    def all(self) -> list[Link]:
        """Return every connection there is."""
        return list(self._links)

    def reason_to_refuse(self, origin: str) -> Optional[CloseReason]:
        """Return why a new connection from `origin` cannot enter even if others give way, or None."""
        if len(self._links) >= self._limits.connections and not (self._unproven or self._roleless):
            return CloseReason.LIMIT_TOTAL
        use = self._uses.get(origin)
        if use is None or use.count < self._limits.connections_per_address + OVERDRAFT:
            return None
        return None if use.unproven or use.roleless else CloseReason.LIMIT_ADDRESS

    def in_the_way(self, origin: str) -> list[Link]:
        """Return the connections that give way so that a new one from `origin` can enter."""
        use = self._uses.get(origin)
        older: Optional[Link] = None
        if use is not None and use.count >= self._limits.connections_per_address:
            older = _oldest(use.unproven) or _oldest(use.roleless)
        # An address that is full beyond giving way may have its overdraft, but not over the limit of all.
        if older is None and len(self._links) >= self._limits.connections:
            older = _oldest(self._unproven) or _oldest(self._roleless)
        if older is None and len(self._unproven) + self._in_pool >= self._limits.unproven:
            older = _oldest(self._unproven)
        return [] if older is None else [older]

    def oldest_unproven(self) -> Optional[Link]:
        """Return the connection that gives way first, or None."""
        return _oldest(self._unproven) or _oldest(self._roleless)

    def enter(self, link: Link) -> None:
        """Count a new connection; it is unproven."""
        self._links[link] = None
        use = self._uses.setdefault(link.origin, _Use())
        use.count += 1
        self._unproven[link] = use.unproven[link] = None

    def busy(self, link: Link) -> None:
        """The handshake pool has `link`: it cannot give way meanwhile."""
        self._unproven.pop(link, None)
        self._uses[link.origin].unproven.pop(link, None)
        self._in_pool += 1

    def back(self, link: Link, proven: bool) -> None:
        """The handshake pool has given `link` back."""
        self._in_pool -= 1
        if link in self._links and not proven:
            self._unproven[link] = self._uses[link.origin].unproven[link] = None

    def prove(self, link: Link) -> tuple[Optional[CloseReason], Optional[Link]]:
        """Count a connection whose key is proven; return why it must end, and who gives way to it."""
        if self._of_key.get(link.key, 0) >= self._limits.connections_per_key:
            return CloseReason.LIMIT_KEY, None
        use = self._uses[link.origin]
        gives_way: Optional[Link] = None
        if use.count > self._limits.connections_per_address and use.keys:
            greediest = max(use.keys.values(), key=len)
            if len(greediest) <= 1 + len(use.keys.get(link.key, ())):
                return CloseReason.LIMIT_ADDRESS, None
            gives_way = next(reversed(greediest))
        self._of_key[link.key] = self._of_key.get(link.key, 0) + 1
        use.keys.setdefault(link.key, {})[link] = None
        self._roleless[link] = use.roleless[link] = None
        return None, gives_way

    def settle(self, link: Link) -> None:
        """`link` has a role from now on."""
        self._roleless.pop(link, None)
        self._uses[link.origin].roleless.pop(link, None)

    def leave(self, link: Link) -> None:
        """Forget a connection that ended."""
        del self._links[link]
        self._unproven.pop(link, None)
        self._roleless.pop(link, None)
        use = self._uses[link.origin]
        use.count -= 1
        use.unproven.pop(link, None)
        use.roleless.pop(link, None)
        self._leave_key(use, link)
        if not use.count:
            del self._uses[link.origin]

    def _leave_key(self, use: _Use, link: Link) -> None:
        of_key = use.keys.get(link.key)
        if of_key is None or link not in of_key:
            return
        del of_key[link]
        if not of_key:
            del use.keys[link.key]
        if self._of_key[link.key] > 1:
            self._of_key[link.key] -= 1
        else:
            del self._of_key[link.key]


def _oldest(links: dict[Link, None]) -> Optional[Link]:
    return next(iter(links), None)
