"""Who is connected from where: the limits in all, for each address and for each key.

A connection is unproven until its handshake is done, then roleless until its InitConnection,
then settled. At a limit the unproven give way first, oldest first, then the roleless. Where all
are settled, a few newcomers may still prove themselves: whoever holds most gives way to those who
hold less. In all that is the address with most connections, and there, as at a full address, the
key with most; its newest connection ends.
"""

from __future__ import annotations

import ipaddress
from typing import Any, Generic, Optional, TypeVar

from offset_common.relay.limits import Limits
from offset_common.relay.link import Link
from offset_common.relay.reasons import CloseReason

Address = tuple[Any, ...]
"""What socket.accept gives: (host, port) or (host, port, flow, scope)."""

OVERDRAFT = 16  # connections that may enter to prove themselves although all, or their address, are full

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


T = TypeVar("T")


class Counts(Generic[T]):
    """How many each has, and who has most, without a search."""

    def __init__(self) -> None:
        self._count: dict[T, int] = {}
        self._with_count: dict[int, dict[T, None]] = {}
        self._most = 0

    def __getitem__(self, item: T) -> int:
        """Return how many `item` has."""
        return self._count.get(item, 0)

    def __bool__(self) -> bool:
        """Whether anybody has any."""
        return bool(self._count)

    def add(self, item: T, change: int) -> None:
        """Let `item` have one more or, with -1, one less."""
        before = self._count.get(item, 0)
        after = before + change
        if before:
            del self._with_count[before][item]
            if not self._with_count[before]:
                del self._with_count[before]
        if after:
            self._count[item] = after
            self._with_count.setdefault(after, {})[item] = None
        else:
            del self._count[item]
        if after > self._most or (before == self._most and before not in self._with_count):
            self._most = after

    def most(self) -> tuple[Optional[T], int]:
        """Return one who has most, and how many."""
        return (next(iter(self._with_count[self._most])), self._most) if self._count else (None, 0)


class _Use:
    """The connections of one origin."""

    __slots__ = ("count", "key_counts", "keys", "roleless", "unproven")

    def __init__(self) -> None:
        self.count = 0
        self.unproven: dict[Link, None] = {}  # oldest first, without those in the pool
        self.roleless: dict[Link, None] = {}
        self.keys: dict[bytes, dict[Link, None]] = {}
        self.key_counts: Counts[bytes] = Counts()

    @property
    def may_give_way(self) -> int:
        """How many there are that give way to a newcomer."""
        return len(self.unproven) + len(self.roleless)


class Origins:
    """All connections of a relay, from acceptance to end.

    Args:
        limits: in all, for each address, for each key.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._most = limits.connections
        self._links: dict[Link, None] = {}
        self._uses: dict[str, _Use] = {}
        self._sizes: Counts[str] = Counts()
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

    def allow_no_more(self) -> None:
        """Let there be no more connections than now, overdraft and all: the system has no room for them."""
        self._most = max(1, min(self._most, len(self._links) - OVERDRAFT))

    def allow_all(self) -> None:
        """Let there be as many connections as the limits say."""
        self._most = self._limits.connections

    @property
    def too_many(self) -> bool:
        """Whether there are more connections than there should be."""
        return len(self._links) > self._most

    def reason_to_refuse(self, origin: str) -> Optional[CloseReason]:
        """Return why a new connection from `origin` cannot enter even if others give way, or None."""
        if len(self._links) >= self._most + OVERDRAFT and not (self._unproven or self._roleless):
            return CloseReason.LIMIT_TOTAL
        use = self._uses.get(origin)
        if use is None or use.count < self._limits.connections_per_address + OVERDRAFT:
            return None
        return None if use.may_give_way else CloseReason.LIMIT_ADDRESS

    def in_the_way(self, origin: str) -> list[Link]:
        """Return the connections that give way so that a new one from `origin` can enter."""
        use = self._uses.get(origin)
        older: Optional[Link] = None
        if use is not None and _is_full(use.count, self._limits.connections_per_address, use.may_give_way):
            older = _oldest(use.unproven) or _oldest(use.roleless)
        if older is None and _is_full(
            len(self._links), self._most, len(self._unproven) + len(self._roleless)
        ):
            older = self.oldest_unproven()
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
        self._sizes.add(link.origin, 1)
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
        if use.count > self._limits.connections_per_address:
            gives_way = _greediest(use, link.key)
            if gives_way is None:
                return CloseReason.LIMIT_ADDRESS, None
        elif self.too_many:
            gives_way = self._greediest_of_all(link)
            if gives_way is None:
                return CloseReason.LIMIT_TOTAL, None
        self._of_key[link.key] = self._of_key.get(link.key, 0) + 1
        use.keys.setdefault(link.key, {})[link] = None
        use.key_counts.add(link.key, 1)
        self._roleless[link] = use.roleless[link] = None
        return None, gives_way

    def _greediest_of_all(self, link: Link) -> Optional[Link]:
        """Return the settled connection that gives way to `link` where there are too many in all."""
        origin, size = self._sizes.most()
        if origin is None or size <= self._sizes[link.origin]:
            return _greediest(self._uses[link.origin], link.key)
        return _newest_of(self._uses[origin])

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
        self._sizes.add(link.origin, -1)
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
        use.key_counts.add(link.key, -1)
        if not of_key:
            del use.keys[link.key]
        if self._of_key[link.key] > 1:
            self._of_key[link.key] -= 1
        else:
            del self._of_key[link.key]


def _oldest(links: dict[Link, None]) -> Optional[Link]:
    return next(iter(links), None)


def _is_full(count: int, limit: int, may_give_way: int) -> bool:
    """Say whether somebody gives way to a newcomer: a few may be proving themselves in any case."""
    return count >= limit and (may_give_way >= min(OVERDRAFT, limit // 4) or count >= limit + OVERDRAFT)


def _greediest(use: _Use, key: bytes) -> Optional[Link]:
    """Return the newest connection of the key with most, if that is more than `key` would have."""
    _, most = use.key_counts.most()
    return _newest_of(use) if most > 1 + use.key_counts[key] else None


def _newest_of(use: _Use) -> Optional[Link]:
    key, _ = use.key_counts.most()
    return None if key is None else next(reversed(use.keys[key]))
