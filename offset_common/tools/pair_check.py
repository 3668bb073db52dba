"""Check that nodes meet through any two addresses of a name: one listens here, another connects there.

One host at several addresses always passes. Several hosts pass if they share their listeners (docs/fleet.md).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from typing import Optional

from offset_common.client import (
    Deadline,
    Incoming,
    Listener,
    Tunnel,
    start_listener,
    start_tunnel,
)
from offset_common.client.dialing import SocketAddress, dial_found
from offset_common.errors import ConnectionEnded
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from offset_common.tools.failures import NotAnnouncedError
from offset_common.wire.messages import InitConnection, InitRole

POLL_INTERVAL = 0.05  # seconds between checks whether the relay closed a connect that arrived too early
RETRY_DELAY = 0.1  # seconds before the next connect
CLOSE_TIMEOUT = 1.0  # seconds


def check_pairs(
    ticket: RelayTicket,
    addresses: Sequence[SocketAddress],
    timeout: float,
    identity: Optional[Identity] = None,
) -> int:
    """Listen at each address, and connect at every other address; return the number of pairs.

    Args:
        ticket: the relay's ticket.
        addresses: the addresses that work.
        timeout: seconds for each pair.
        identity: the identity of both nodes; None for new identities.

    Raises:
        NotAnnouncedError: some pairs don't meet; the error names them.
        ConnectionEnded: a connection was closed.
    """
    apart = []
    for here in addresses:
        listening, connecting = identity or Identity.generate(), identity or Identity.generate()
        init = InitConnection(InitRole.CONNECT, listening.public_key)
        listener = start_listener(dial_found(ticket, listening, [here], Deadline(timeout)))
        try:
            for there in addresses:
                if there != here and not _meet(ticket, listener, init, connecting, there, timeout):
                    apart.append(f"{there.sockaddr[0]} to {here.sockaddr[0]}")
                    break  # the next address would take as long
        finally:
            listener.close(CLOSE_TIMEOUT)
    if apart:
        raise NotAnnouncedError(f"connects are not announced from {', nor from '.join(apart)}")
    return len(addresses) * (len(addresses) - 1)


def _meet(
    ticket: RelayTicket,
    listener: Listener,
    init: InitConnection,
    connecting: Identity,
    there: SocketAddress,
    timeout: float,
) -> bool:
    deadline = Deadline(timeout)
    while deadline.left():
        dialing = dial_found(ticket, connecting, [there], Deadline(timeout))
        tunnel = start_tunnel(dialing, init, end_to_end=False, timeout=timeout)
        try:
            if wait_for_incoming(listener, tunnel, deadline) is not None:
                return True
        finally:
            tunnel.close(CLOSE_TIMEOUT)
        time.sleep(min(RETRY_DELAY, deadline.left()))
    return False


def wait_for_incoming(listener: Listener, tunnel: Tunnel, deadline: Deadline) -> Optional[Incoming]:
    """Return the connect that the listener receives, or None if the relay closed it.

    Args:
        listener: receives the connect.
        tunnel: the tunnel of the connect.
        deadline: when to give up and return None.

    Raises:
        ConnectionEnded: the listener was closed.
    """
    while deadline.left():
        with contextlib.suppress(TimeoutError):
            return listener.receive(min(POLL_INTERVAL, deadline.left()))
        try:
            tunnel.receive(0)
        except TimeoutError:
            continue
        except ConnectionEnded:
            return None
    return None
