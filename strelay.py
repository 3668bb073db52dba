#!/usr/bin/env python3
"""Runs an Offset relay: a public server through which nodes behind NATs meet.

Usage:
  strelay.py --idfile FILE --laddr ADDRESS [options]
  strelay.py -h | --help
  strelay.py -V | --version

The usual case:
  strelay.py --idfile relay/relay.ident --laddr 0.0.0.0:4567

  -i FILE, --idfile FILE       The relay's identity, as `stmgr.py gen-ident` makes it.
  -l ADDRESS, --laddr ADDRESS  Where to listen, as IP:PORT: 0.0.0.0:4567 is every IPv4 address of this
                               host, [::]:4567 every IPv6 and IPv4 address; port 0 takes a free port.
  -h, --help                   Show this page.
  -V, --version                Show the version.

It prints a line once it is ready, one for each connection that ended, and on SIGUSR1 one about what
it has at the moment. SIGTERM or Ctrl-C ends it in order, a second one at once.

  --drain SECONDS              How long tunnels may run on after SIGTERM [default: 5].

More than one core:
  --workers N                  Processes that forward for tunnels; auto is one for each core [default: 1].

The rest are limits. A connection over one is closed, and the log says why.

Limits for all:
  --connections N              Connections in all, at most 80 % of the open files allowed, which is what
                               auto is [default: auto].
  --unproven N                 Connections that have not finished the handshake [default: 4096].
  --accepts N                  New connections each second [default: 5000].
  --handshake-threads N        Handshakes computed at the same time [default: 4].
  --buffers MIB                MiB that slow readers and large messages may fill [default: 12].
  --stall SECONDS              How long a peer may leave what waits for it unread [default: 120].

Limits for one address (an IPv4 address or an IPv6 /64; a thousand nodes may share one):
  --per-address N              Connections [default: 6000].

Limits for one key:
  --per-key N                  Connections [default: 2500].
  --waiting N                  Connects that wait to be accepted [default: 256].
  --waiting-for N              Connects that wait for one listener [default: 4096].
  --tunnels N                  Tunnels [default: 2048].
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any, Optional

from offset_common import __version__
from offset_common.address import parse_listen_address
from offset_common.command_line import parse, run
from offset_common.errors import UsageError
from offset_common.identity import load_identity, others_can_read
from offset_common.relay.limits import MIB, Limits, connections_for
from offset_common.relay.listening import listen_on
from offset_common.relay.log import Log
from offset_common.relay.memory import give_back_large_blocks
from offset_common.relay.server import Relay, raise_descriptor_limit, stop_on_signals

STATUS_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: the relay itself failed, a supervisor starts it again
MOST_DIGITS = 20  # of a number on the command line


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the relay until a signal stops it; return the exit status."""
    fill_standard_descriptors()
    return run("strelay", lambda: serve(parse(__doc__, sys.argv[1:] if argv is None else argv, __version__)))


def fill_standard_descriptors() -> None:
    """Open nowhere for each standard descriptor that is closed: or a socket would get the log's number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(nowhere, True)


def serve(arguments: dict[str, Any]) -> int:
    """Start the relay that the arguments describe, and serve.

    Raises:
        OperatorError: it cannot start.
    """
    address = parse_listen_address(arguments["--laddr"])
    give_back_large_blocks()
    limits = read_limits(arguments)
    drain = read_number(arguments, "--drain", least=0, most=86400)
    workers = read_workers(arguments)
    identity = load_identity(arguments["--idfile"])
    log = Log()
    if others_can_read(arguments["--idfile"]):
        log.line(
            f"warning: others can read {arguments['--idfile']}, which holds the private key; chmod 600 it"
        )
    relay = Relay(identity, listen_on(address), limits, log, workers=workers)
    try:
        with stop_on_signals(relay, drain):
            relay.serve()
    except Exception:
        log = Log()  # the relay closed the other one, if it came so far
        log.line(f"the relay failed:\n{traceback.format_exc().rstrip()}")
        log.close()
        return STATUS_SOFTWARE
    return 0


def read_limits(arguments: dict[str, Any]) -> Limits:
    """Return the limits that the arguments name.

    Raises:
        UsageError: one is no number, or too small.
    """
    connections = connections_for(raise_descriptor_limit())
    if arguments["--connections"] != "auto":
        connections = min(read_count(arguments, "--connections"), connections)
    return Limits(
        connections=connections,
        connections_per_address=read_count(arguments, "--per-address"),
        connections_per_key=read_count(arguments, "--per-key"),
        unproven=read_count(arguments, "--unproven"),
        waiting_per_key=read_count(arguments, "--waiting"),
        waiting_per_listener=read_count(arguments, "--waiting-for"),
        tunnels_per_key=read_count(arguments, "--tunnels"),
        buffers=int(read_number(arguments, "--buffers", least=1, most=1 << 20) * MIB),
        stall=read_number(arguments, "--stall", least=1, most=86400),
        accepts_per_second=read_count(arguments, "--accepts"),
        handshake_threads=read_count(arguments, "--handshake-threads", most=256),
    )


def read_workers(arguments: dict[str, Any]) -> int:
    """Return how many processes shall forward.

    Raises:
        UsageError: it is no number, or out of range.
    """
    if arguments["--workers"] == "auto":
        return len(os.sched_getaffinity(0))
    return read_count(arguments, "--workers", most=256)


def read_count(arguments: dict[str, Any], option: str, most: int = 10_000_000) -> int:
    """Return the whole number that `option` has.

    Raises:
        UsageError: it is none, or out of range.
    """
    text = arguments[option]
    # Python refuses to read thousands of digits, by another exception.
    readable = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
    count = int(text) if readable else 0
    if not 1 <= count <= most:
        raise UsageError(f"{option} is a whole number from 1 to {most}, not {text!r}")
    return count


def read_number(arguments: dict[str, Any], option: str, least: float, most: float) -> float:
    """Return the number that `option` has.

    Raises:
        UsageError: it is none, or out of range.
    """
    try:
        number = float(arguments[option])
    except ValueError:
        number = -1.0
    if not least <= number <= most:
        raise UsageError(f"{option} is a number from {least:g} to {most:g}, not {arguments[option]!r}")
    return number


if __name__ == "__main__":
    status = main()
    if sys.stderr is not None:
        sys.stderr.flush()
    os._exit(status) if status == STATUS_SOFTWARE else sys.exit(status)
