"""The content of the directory: the keys and values of its entries, and the scripts that change them.

    offset:{RELAY}:host:HOST       a host that is alive, as JSON            expires after HOST_TTL
    offset:{RELAY}:hosts           the set of all hosts                     expires after HOSTS_TTL
    offset:{RELAY}:listener:KEY    the home of a listener: "EPOCH HOST"     expires after LISTENER_TTL
    offset:{RELAY}:epoch           the last epoch                           expires after EPOCH_TTL

RELAY is the public key of the relay, HOST the fleet key of a host and KEY the public key of a node, all as
base64. The braces put all entries of a fleet into one slot of a cluster, so one script may use many.

Source: docs/fleet.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from ipaddress import ip_address
from typing import NamedTuple, Optional, Union

from offset_common.address import Address, parse_address
from offset_common.errors import UsageError
from offset_common.identity import decode_key, encode_key

HOST_TTL = 10_000  # milliseconds
HOSTS_TTL = 60_000
LISTENER_TTL = 120_000
EPOCH_TTL = 3_600_000

KEY_SIZE = 32  # bytes
MAX_NAME_SIZE = 64  # characters of a host's name

Command = tuple[Union[str, int], ...]
Answer = object
"""A value that the server returns: bytes, a number, None, a list or set of these, or an exception."""

# Entries that no host of the fleet wrote are overwritten, whatever their type.

# An epoch is larger than any before it, even if the server lost everything: the server's clock is the floor.
_RESERVE = """
local time = redis.call('TIME')
local last = redis.pcall('GET', KEYS[1])
last = type(last) == 'string' and #last <= 16 and tonumber(last) or 0
local epoch = math.max(last + 1, tonumber(ARGV[1]) + 1, time[1] * 1000000 + time[2])
local text = string.format('%.0f', epoch)
redis.call('SET', KEYS[1], text, 'PX', ARGV[2])
return text
"""

# The larger epoch wins, even if claims arrive in another order or repeatedly. An entry that exists already is
# only extended, which even a server without free memory allows.
_CLAIM = """
local answers = {}
for i, key in ipairs(KEYS) do
  local number = ARGV[i + 2]
  local mine = number .. ' ' .. ARGV[1]
  local current = redis.pcall('GET', key)
  if type(current) ~= 'string' then current = '' end
  local epoch = string.match(current, '^(%d+) ')
  if epoch and #epoch > 16 then epoch = nil end
  answers[i] = current
  if current == mine then
    redis.call('PEXPIRE', key, ARGV[2])
  elseif not epoch or tonumber(epoch) < tonumber(number) then
    local result = redis.pcall('SET', key, mine, 'PX', ARGV[2])
    if result.err then answers[i] = result end
  end
end
return answers
"""

_DROP = """
for i, key in ipairs(KEYS) do
  if redis.pcall('GET', key) == ARGV[i] then redis.call('DEL', key) end
end
"""

_ENTRY = re.compile(rb"(\d{1,16}) ([A-Za-z0-9_-]{43})")


class Host(NamedTuple):
    """One host of a fleet.

    Args:
        id: its fleet key, as base64.
        name: its name, for people.
        address: where other hosts reach it: an IP address and a port.
    """

    id: str
    name: str
    address: Address

    @property
    def key(self) -> bytes:
        """Its fleet key, 32 bytes."""
        return decode_key(self.id, KEY_SIZE)


class Claim(NamedTuple):
    """The host that has a listener. Of two claims of a key, the one with the larger epoch wins."""

    epoch: int
    host: str


def read_claim(value: Answer) -> Optional[Claim]:
    """Return the claim in a listener's entry, or None if there is none."""
    found = _ENTRY.fullmatch(value) if isinstance(value, bytes) else None
    return None if found is None else Claim(int(found[1]), found[2].decode())


class Entries:
    """Makes the commands of one fleet.

    Args:
        relay_key: the public key that all hosts of the fleet share, 32 bytes.
    """

    def __init__(self, relay_key: bytes) -> None:
        self._relay = encode_key(relay_key)
        self._prefix = f"offset:{{{self._relay}}}:"

    @property
    def any_key(self) -> str:
        """A key of the fleet, to find its slot in a cluster."""
        return self._prefix + "hosts"

    def show_host(self, host: Host) -> list[Command]:
        """Keep a host in the directory; answers: whether it was there, that of storing it, and two more."""
        value = json.dumps({"name": host.name, "address": str(host.address)})
        key, hosts = f"{self._prefix}host:{host.id}", f"{self._prefix}hosts"
        return [
            ("PEXPIRE", key, HOST_TTL),
            ("SET", key, value, "PX", HOST_TTL),
            ("SADD", hosts, host.id),
            ("PEXPIRE", hosts, HOSTS_TTL),
        ]

    def remove_host(self, host: str) -> list[Command]:
        """Remove a host from the directory."""
        return [("DEL", f"{self._prefix}host:{host}"), self.forget_host(host)]

    def forget_host(self, host: str) -> Command:
        """Remove a host whose entry has expired from the set."""
        return ("SREM", f"{self._prefix}hosts", host)

    def list_hosts(self) -> Command:
        """Return the set of all hosts."""
        return ("SMEMBERS", f"{self._prefix}hosts")

    def read_hosts(self, hosts: Sequence[str]) -> Command:
        """Return the entries of hosts, for `host_in`."""
        return ("MGET", *(f"{self._prefix}host:{host}" for host in hosts))

    def host_in(self, host: str, value: Answer) -> Optional[Host]:
        """Return the host that an entry describes, or None if the entry is missing or invalid."""
        if host == self._relay:
            return None  # "The relay's own identity is refused"
        try:
            decode_key(host, KEY_SIZE)
            fields = json.loads(value if isinstance(value, bytes) else b"{}")
            name, address = fields["name"], fields["address"]
            if not isinstance(name, str) or not isinstance(address, str):
                return None
            parsed = parse_address(address)
            ip_address(parsed.host)  # a name would be resolved in the event loop
            return Host(host, name[:MAX_NAME_SIZE], parsed)
        except (UsageError, ValueError, TypeError, KeyError, RecursionError):
            return None

    def read_listener(self, key: bytes) -> Command:
        """Return the entry of a listener, for `read_claim`."""
        return ("GET", self._listener(key))

    def reserve(self, floor: int) -> Command:
        """Return an epoch larger than `floor` and every earlier epoch."""
        return ("EVAL", _RESERVE, 1, f"{self._prefix}epoch", floor, EPOCH_TTL)

    def claim(self, host: str, epochs: Sequence[tuple[bytes, int]]) -> Command:
        """Claim listeners; the answer has the previous entry of each."""
        keys = [self._listener(key) for key, _ in epochs]
        return ("EVAL", _CLAIM, len(keys), *keys, host, LISTENER_TTL, *(epoch for _, epoch in epochs))

    def drop(self, host: str, epochs: Sequence[tuple[bytes, int]]) -> Command:
        """Remove listeners that have ended, unless their entries have changed."""
        keys = [self._listener(key) for key, _ in epochs]
        return ("EVAL", _DROP, len(keys), *keys, *(f"{epoch} {host}" for _, epoch in epochs))

    def _listener(self, key: bytes) -> str:
        return f"{self._prefix}listener:{encode_key(key)}"
