#!/usr/bin/env python3
"""Answer callers through a relay: the shortest program that others can reach.

Usage: listener.py <ticket> <identity>

Each caller has its own thread. Callers that fail, crash or send nothing do not disturb the others. The
program listens again on its own when the relay is back. examples/caller.py calls it.
"""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
from offset_common.client import RelayTicket, Tunnel, encode_key, load_identity, serve
from offset_common.command_line import parse, run


def answer(tunnel: Tunnel) -> None:
    """Answer every message of one caller."""
    for message in tunnel:
        tunnel.send(b"you said " + message)


def main() -> None:
    """Serve until Ctrl-C."""
    words = parse(__doc__ or "", sys.argv[1:], __version__, options_first=True)
    ticket, identity = RelayTicket.load(words["<ticket>"]), load_identity(words["<identity>"])
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(f"public key: {encode_key(identity.public_key)}", flush=True)
    serve(ticket, identity, answer, allow=None)


if __name__ == "__main__":
    sys.exit(run("listener", main))
