"""Check every address of a relay's name, because a node may use any of them.

A released node tries the addresses one after another, and waits about two minutes if one does not answer.
So all addresses of a relay's name must work.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Optional

from offset_common.address import Address
from offset_common.client.dialing import Deadline, SocketAddress, close_socket, dial_found
from offset_common.errors import ConnectError
from offset_common.identity import Identity
from offset_common.threads import start_thread
from offset_common.tickets import RelayTicket
from offset_common.tools.failures import Cause, Failure, explain

MAX_ADDRESSES = 16  # checked at the same time; further addresses of a name are not checked
CLOSE_TIMEOUT = 1.0  # seconds to wait until the relay closes a connection


class AddressResult(NamedTuple):
    """The result of one address.

    Args:
        address: as the resolver returned it.
        host: the IP address as text.
        seconds: the duration of the check.
        failure: why the address does not work, or None.
        routed: False if this machine has no route to the address, so that it was not checked.
    """

    address: SocketAddress
    host: str
    seconds: float
    failure: Optional[Failure]
    routed: bool = True

    @property
    def works(self) -> bool:
        """Whether the relay proved its key at this address."""
        return self.routed and self.failure is None


def check_addresses(
    ticket: RelayTicket, found: Sequence[SocketAddress], timeout: float
) -> list[AddressResult]:
    """Connect to every address at the same time, up to the end of the handshake.

    Args:
        ticket: the relay's ticket.
        found: the result of `find_addresses`; at most MAX_ADDRESSES of them are checked.
        timeout: seconds for each address.
    """
    addresses = list(dict.fromkeys(found))[:MAX_ADDRESSES]
    results: dict[SocketAddress, AddressResult] = {}

    def check(address: SocketAddress) -> None:
        results[address] = _check(ticket, address, timeout)

    # Daemon threads, so that Ctrl-C does not wait for them.
    threads = [start_thread(partial(check, each), "offset address check") for each in addresses]
    for thread in threads:
        thread.join()
    return [results[each] for each in addresses]


def failure_of_some(ticket: RelayTicket, results: Sequence[AddressResult]) -> Optional[Failure]:
    """Return the failure of a relay that works only at some of its addresses, or None if all work."""
    bad = [each for each in results if each.failure is not None]
    if not bad:
        return None
    good = ", ".join(each.host for each in results if each.works)
    reasons = "; ".join(each.failure.reason for each in bad if each.failure is not None)
    advice = (
        f"make the relay reachable at {' and at '.join(each.host for each in bad)}, or remove that address"
        f" from the name {ticket.address.host}: nodes use any of the addresses, and one that does not answer"
        " holds up a node for two minutes"
    )
    return Failure("addresses", Cause.SOME_ADDRESSES, f"the relay works at {good}, but {reasons}", advice)


def _check(ticket: RelayTicket, address: SocketAddress, timeout: float) -> AddressResult:
    host, port = address.sockaddr[:2]
    if not _has_route(address):
        return AddressResult(address, host, 0.0, None, routed=False)
    start = time.perf_counter()
    failure = None
    named = RelayTicket(ticket.public_key, Address(host, port))  # so that errors name this address
    try:
        _shake_hands(named, address, timeout)
    except ConnectError as error:
        failure = explain(f"address {host}", error, named)
    return AddressResult(address, host, time.perf_counter() - start, failure)


def _has_route(address: SocketAddress) -> bool:
    """Return whether this machine has a route to an address; this sends nothing."""
    try:
        with socket.socket(address.family, socket.SOCK_DGRAM) as sock:
            sock.connect(address.sockaddr)
    except OSError:
        return False
    return True


def _shake_hands(ticket: RelayTicket, address: SocketAddress, timeout: float) -> None:
    """Complete the handshake, and close the connection in an orderly way."""
    dialing = dial_found(ticket, Identity.generate(), [address], Deadline(timeout))
    close_socket(dialing.sock, CLOSE_TIMEOUT)
