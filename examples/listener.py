#!/usr/bin/env python3
"""Answer callers through a relay: the shortest program that others can reach.

    python examples/listener.py relay.relay listener.ident

Each caller has its own thread. Callers that fail, crash or say nothing do not disturb the others, and the
program listens again by itself after the relay was away. examples/caller.py calls it.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common.client import RelayTicket, Tunnel, encode_key, load_identity, serve


def answer(tunnel: Tunnel) -> None:
    """Answer every message of one caller."""
    for message in tunnel:
        tunnel.send(b"you said " + message)


def main(ticket: str, identity: str) -> None:
    """Serve until Ctrl-C."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    me = load_identity(identity)
    print(f"public key: {encode_key(me.public_key)}", flush=True)
    serve(RelayTicket.load(ticket), me, answer, allow=None)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("usage: listener.py TICKET IDENTITY")
    try:
        main(*sys.argv[1:])
    except KeyboardInterrupt:
        pass
