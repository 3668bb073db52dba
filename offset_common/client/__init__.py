"""A node's side of the relay protocol, with a blocking interface: listen, connect, accept.

    with listen(ticket, identity) as listener:
        for incoming in listener:
            with incoming.accept(end_to_end=True) as tunnel:
                tunnel.send(b"hello")
                print(tunnel.receive())

    with connect(ticket, identity, peer_public_key, end_to_end=True) as tunnel:
        print(tunnel.receive())
        tunnel.send(b"hello to you")

Each connection has its own thread (driver.py), which sends keepalives whatever the program does. All
methods are thread-safe. To time or trace a connection attempt, call its steps one by one (dialing.py).
"""

from __future__ import annotations

from offset_common.client.dialing import Deadline, Dialing, Step, dial, find_addresses, open_socket
from offset_common.client.listener import Incoming, Listener, listen, start_listener
from offset_common.client.tunnel import Tunnel, accept, connect, start_tunnel

__all__ = [
    "Deadline",
    "Dialing",
    "Incoming",
    "Listener",
    "Step",
    "Tunnel",
    "accept",
    "connect",
    "dial",
    "find_addresses",
    "listen",
    "open_socket",
    "start_listener",
    "start_tunnel",
]
