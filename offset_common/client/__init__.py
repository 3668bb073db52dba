"""A node's side of the relay protocol, with a blocking interface: listen, connect, accept, serve.

    def answer(tunnel):
        for message in tunnel:
            tunnel.send(b"you said " + message)

    serve(ticket, identity, answer, allow={callers_public_key})

    with connect(ticket, identity, servers_public_key, end_to_end=True) as tunnel:
        tunnel.send(b"hello")
        print(tunnel.receive())

Each connection has its own thread (driver.py), which sends keepalives whatever the program does. All
methods are thread-safe. To time or trace a connection attempt, call its steps one by one (dialing.py).

This module also exports the names that a program needs from other modules, so one import is enough.

The names in `__all__`, their arguments and the exceptions in their docstrings are the public interface. They
follow semantic versioning: before 1.0, a minor version may change them; from then on, only a major one. A
name that will be removed first raises a DeprecationWarning for at least one minor version. Everything else in
this package may change at any time. There is no asyncio interface: call these functions in threads.
"""

from __future__ import annotations

from offset_common.client.dialing import Deadline, Dialing, Step, dial, find_addresses, open_socket
from offset_common.client.listener import Incoming, Listener, listen, start_listener
from offset_common.client.server import Server, serve
from offset_common.client.stream import TunnelStream
from offset_common.client.tunnel import Tunnel, accept, connect, start_tunnel
from offset_common.errors import (
    ConnectError,
    ConnectionEnded,
    ConnectionLost,
    ConnectRefused,
    NotAccepted,
    OffsetError,
    PeerError,
    RelayUnreachable,
    WrongRelay,
)
from offset_common.identity import Identity, decode_key, encode_key, load_identity, save_identity
from offset_common.tickets import RelayTicket

__all__ = [
    "ConnectError",
    "ConnectRefused",
    "ConnectionEnded",
    "ConnectionLost",
    "Deadline",
    "Dialing",
    "Identity",
    "Incoming",
    "Listener",
    "NotAccepted",
    "OffsetError",
    "PeerError",
    "RelayTicket",
    "RelayUnreachable",
    "Server",
    "Step",
    "Tunnel",
    "TunnelStream",
    "WrongRelay",
    "accept",
    "connect",
    "decode_key",
    "dial",
    "encode_key",
    "find_addresses",
    "listen",
    "load_identity",
    "open_socket",
    "save_identity",
    "serve",
    "start_listener",
    "start_tunnel",
]
