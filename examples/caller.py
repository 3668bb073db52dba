#!/usr/bin/env python3
"""Call examples/listener.py through a relay, and print its answer.

Usage: caller.py <ticket> <identity> <key-of-the-listener>
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
from offset_common.client import (
    ConnectRefused,
    NotAccepted,
    OffsetError,
    RelayTicket,
    RelayUnreachable,
    connect,
    decode_key,
    load_identity,
)
from offset_common.command_line import parse, run


def main() -> None:
    """Send one message and print the answer."""
    words = parse(__doc__ or "", sys.argv[1:], __version__, options_first=True)
    ticket, identity = RelayTicket.load(words["<ticket>"]), load_identity(words["<identity>"])
    listener = decode_key(words["<key-of-the-listener>"], 32, "the key of the listener")
    try:
        with connect(ticket, identity, listener, end_to_end=True) as tunnel:
            tunnel.send(b"hello")
            print(tunnel.receive(timeout=10).decode())
    except RelayUnreachable as error:
        sys.exit(f"the relay cannot be reached; try again later: {error}")
    except ConnectRefused:
        sys.exit("the listener is not there, or rejected the call")
    except NotAccepted:
        sys.exit("the listener did not accept the call in time")
    except OffsetError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    sys.exit(run("caller", main))
