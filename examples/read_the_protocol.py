#!/usr/bin/env python3
"""Show the protocol in action: two nodes connect through a relay, and every frame is explained.

Usage:
  read_the_protocol.py [--short] [<ticket>]
  read_the_protocol.py --html FILE [--record FILE] [<ticket>]

Without a ticket, this program runs a relay of its own.

Options:
  --short        Show the opening frames only once: they are the same for all three connections.
  --html FILE    Create a page that explains every byte instead; open it in a browser.
  --record FILE  Save the recording that the page explains, as JSON.
  -h, --help     Show this page.
  -V, --version  Show the version.

Each frame names the section of docs/protocol.md that explains it. Section 10 has an example.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the program without a traceback
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from offset_common import __version__
from offset_common.address import Address, parse_address
from offset_common.command_line import parse, run
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.identity import Identity
from offset_common.illustrate.command import illustrate
from offset_common.relay.limits import Limits
from offset_common.relay.listening import listen_on
from offset_common.relay.log import RelayLog
from offset_common.relay.server import Relay
from offset_common.tickets import RelayTicket
from offset_common.tools.check_report import Report, check_and_report


def main() -> int:
    """Run the program; return the exit status."""
    return run("read_the_protocol", lambda: show(parse(__doc__, sys.argv[1:], __version__)))


def show(values: dict[str, Any]) -> int:
    """Explain a run through the ticket's relay, or through one that runs in this program."""
    if values["<ticket>"]:
        return explain(RelayTicket.load(values["<ticket>"]), values)
    with own_relay() as ticket:
        return explain(ticket, values)


def explain(ticket: RelayTicket, values: dict[str, Any]) -> int:
    """Connect two nodes through the relay, and print every frame or write the page."""
    if values["--html"] is None:
        return check_and_report(ticket, HANDSHAKE_TIMEOUT, Report.TRACE, short=values["--short"])
    illustrate(ticket, values["--html"], HANDSHAKE_TIMEOUT, values["--record"])
    return 0


@contextlib.contextmanager
def own_relay() -> Iterator[RelayTicket]:
    """Run a relay in a thread and yield its ticket."""
    identity = Identity.generate()
    relay = Relay(identity, listen_on([Address("127.0.0.1", 0)]), Limits(), RelayLog(None))
    thread = threading.Thread(target=relay.serve)
    thread.start()
    try:
        yield RelayTicket(identity.public_key, parse_address(relay.addresses[0]))
    finally:
        relay.loop.call_soon_threadsafe(lambda: relay.stop(drain=0))
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
