#!/usr/bin/env python3
"""Call examples/listener.py through a relay, and print its answer.

python examples/caller.py relay.relay caller.ident PUBLIC_KEY_OF_THE_LISTENER
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

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


def main(ticket: str, identity: str, key: str) -> None:
    """Send one message and print the answer."""
    listener = decode_key(key, 32, "the public key of the listener")
    with connect(RelayTicket.load(ticket), load_identity(identity), listener, end_to_end=True) as tunnel:
        tunnel.send(b"hello")
        print(tunnel.receive(timeout=10).decode())


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: caller.py TICKET IDENTITY PUBLIC_KEY_OF_THE_LISTENER")
    try:
        main(*sys.argv[1:])
    except RelayUnreachable as error:
        sys.exit(f"the relay cannot be reached; try again later: {error}")
    except ConnectRefused:
        sys.exit("the listener is not there, or does not want this call")
    except NotAccepted:
        sys.exit("the listener did not accept the call in time")
    except (OffsetError, TimeoutError) as error:
        sys.exit(str(error))
