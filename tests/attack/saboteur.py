"""Runs the relay with a fault in one of its rooms, which only one peer meets.

python -m tests.attack.saboteur ROOM PYTHON strelay.py OPTION...
"""

from __future__ import annotations

import sys
from typing import Any

import strelay
from offset_common.channel import connection, forwarder, handshake
from offset_common.identity import Identity
from offset_common.relay import deadlines, forwarding, handshakes, inbox, link, lobby, registry, roles, server
from offset_common.wire import messages

VICTIM = Identity.from_seed(b"the one who meets a bug of ours.")
"""The peer that meets the fault."""

ROOMS: dict[str, tuple[Any, str]] = {
    "wire": (messages.IncomingConnection, "encode"),
    "handshake": (handshake.Handshake, "receive_rand_nonce"),
    "handshake pool": (handshakes.HandshakePool, "_send"),
    "lobby": (lobby.Lobby, "_prove"),
    "channel": (connection.Connection, "receive_frame"),
    "roles": (roles.Roles, "connect"),
    "registry": (registry.Registry, "connect"),
    "join": (forwarding.Tunnels, "serve"),
    "forwarding": (forwarding.Tunnels, "process"),
    "forwarder": (forwarder.Forwarder, "forward"),
    "inbox": (inbox.Inbox, "keep"),
    "output": (link.Link, "write"),
    "time": (link.Link, "schedule"),
}
"""The places of the faults."""

LOOP = "loop"
"""The fault that is nobody's alone: the loop's own."""


class PlantedError(Exception):
    """Nobody expects it."""


def concerns_victim(what: object) -> bool:
    """Say whether an argument is of the victim's connection."""
    key = VICTIM.public_key
    if isinstance(what, bytes):
        return key in what
    if isinstance(what, handshakes.HandshakeJob):
        return what.connection is not None and concerns_victim(what.connection)
    if isinstance(what, connection.Connection):
        state = what.channel
        return key == (state._handshake.peer_public_key if state._handshake else what.peer_public_key)
    if isinstance(what, link.Link):
        return key in (
            what.key,
            what.connection is not None and what.connection.established and what.connection.peer_public_key,
        )
    return key in (getattr(what, "src_public_key", b""), getattr(what, "public_key", b""))


def plant(owner: Any, name: str) -> None:
    """Let a method fail for the victim."""
    original = getattr(owner, name)

    def failing(*arguments: Any, **others: Any) -> Any:
        if any(concerns_victim(each) for each in arguments):
            raise PlantedError
        return original(*arguments, **others)

    static = isinstance(owner.__dict__.get(name), staticmethod)
    setattr(owner, name, staticmethod(failing) if static else failing)


def plant_in_loop() -> None:
    """Let the loop itself fail once the victim has proven itself."""
    original = deadlines.Deadlines.take_due
    admitted = server.Relay._admitted
    seen = []

    def note(relay: Any, newcomer: Any) -> None:
        seen.append(newcomer.key == VICTIM.public_key)
        admitted(relay, newcomer)

    def failing(self: Any, now: float) -> Any:
        if any(seen):
            raise PlantedError
        return original(self, now)

    setattr(server.Relay, "_admitted", note)  # noqa: B010
    setattr(deadlines.Deadlines, "take_due", failing)  # noqa: B010


if __name__ == "__main__":
    room = sys.argv[1]
    if room == LOOP:
        plant_in_loop()
    else:
        plant(*ROOMS[room])
    sys.exit(strelay.main(sys.argv[4:]))
