#!/usr/bin/env python3
"""Run an Offset relay: a public server through which nodes behind NATs meet.

Usage:
  strelay.py --idfile FILE --laddr ADDRESS [options]
  strelay.py -h | --help
  strelay.py -V | --version

Example:
  strelay.py --idfile relay/relay.ident --laddr 0.0.0.0:4567

  -i FILE, --idfile FILE       The relay's identity, made by `stmgr.py gen-ident`.
  -l ADDRESS, --laddr ADDRESS  The address to listen on, as IP:PORT: 0.0.0.0:4567 is every IPv4 address of
                               this host, [::]:4567 every IPv6 and IPv4 address; port 0 is any free port.
  -h, --help                   Show this page.
  -V, --version                Show the version.

The relay logs to standard error: a line when it is ready, one for each connection that ended, and on
SIGUSR1 one with its present state. SIGTERM or Ctrl-C stops it in order, a second one at once.

  --drain SECONDS              Time that tunnels have to end after SIGTERM [default: 5].

More than one core:
  --workers N                  Processes that forward for tunnels; auto is one per core [default: 1].

Limits for all connections; the log says why a connection was refused or closed:
  --connections N              Connections in all; auto, and the most possible, is 80 % of the open files
                               that the system allows [default: auto].
  --unproven N                 Connections that have not finished the handshake [default: 4096].
  --accepts N                  New connections per second [default: 5000].
  --handshake-threads N        Handshakes computed at the same time [default: 4].
  --buffers MIB                Memory for slow readers and large messages, in MiB [default: 12].
  --socket-buffer KIB          Memory for each of the four kernel buffers of a tunnel, in KiB; 0 lets the
                               system decide. It bounds the speed of a distant peer [default: 512].
  --stall SECONDS              Time that a peer may leave its data unread [default: 120].

Limits for one address (a thousand nodes may share one):
  --per-address N              Connections; auto is 6000, but at most three quarters of --connections
                               [default: auto].
  --ipv6-prefix BITS           Length of the IPv6 prefix that counts as one address [default: 64].

Limits for one key:
  --per-key N                  Connections; auto is 2500, but at most half of --per-address [default: auto].
  --waiting N                  Pending connects from one key [default: 256].
  --waiting-for N              Pending connects for one listener [default: 4096].
  --tunnels N                  Tunnels [default: 2048].
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any, Optional

from offset_common import __version__
from offset_common.address import parse_listen_address
from offset_common.command_line import parse, run
from offset_common.errors import UsageError
from offset_common.identity import load_identity, others_can_read
from offset_common.relay.buffer_pool import return_large_blocks
from offset_common.relay.limits import KIB, MIB, Limits, connections_for
from offset_common.relay.listening import listen_on
from offset_common.relay.log import RelayLog, log_event
from offset_common.relay.server import Relay, raise_descriptor_limit, stop_on_signals

STATUS_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: the relay itself failed, a supervisor starts it again
MOST_DIGITS = 20  # of a number on the command line


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the relay until a signal stops it; return the exit status."""
    fill_standard_descriptors()
    return run("strelay", lambda: serve(parse(__doc__, sys.argv[1:] if argv is None else argv, __version__)))


def fill_standard_descriptors() -> None:
    """Open /dev/null for each closed standard descriptor, or a socket would get the log's number."""
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
    return_large_blocks()
    limits = read_limits(arguments)
    drain = read_number(arguments, "--drain", least=0, most=86400)
    workers = read_workers(arguments)
    identity = load_identity(arguments["--idfile"])
    log = RelayLog()
    if others_can_read(arguments["--idfile"]):
        log_event(
            "others can read the private key; chmod 600 it", logging.WARNING, file=arguments["--idfile"]
        )
    relay = Relay(identity, listen_on(address, limits.socket_buffer), limits, log, workers=workers)
    try:
        with stop_on_signals(relay, drain):
            relay.serve()
    except Exception as error:
        log.close()
        log = RelayLog()
        log_event("the relay failed", logging.ERROR, exc_info=error)
        log.close()
        return STATUS_SOFTWARE
    return 0


def read_limits(arguments: dict[str, Any]) -> Limits:
    """Return the limits in the arguments.

    Raises:
        UsageError: one is not a number, or out of range.
    """
    connections = connections_for(raise_descriptor_limit())
    if arguments["--connections"] != "auto":
        connections = min(read_count(arguments, "--connections"), connections)
    per_address = min(Limits().connections_per_address, connections - connections // 4)
    if arguments["--per-address"] != "auto":
        per_address = read_count(arguments, "--per-address")
    per_key = min(Limits().connections_per_key, max(1, per_address // 2))
    if arguments["--per-key"] != "auto":
        per_key = read_count(arguments, "--per-key")
    return Limits(
        connections=connections,
        connections_per_address=per_address,
        connections_per_key=per_key,
        unauthenticated=read_count(arguments, "--unproven"),
        waiting_per_key=read_count(arguments, "--waiting"),
        waiting_per_listener=read_count(arguments, "--waiting-for"),
        tunnels_per_key=read_count(arguments, "--tunnels"),
        buffers=int(read_number(arguments, "--buffers", least=1, most=1 << 20) * MIB),
        socket_buffer=int(read_number(arguments, "--socket-buffer", least=0, most=1 << 20) * KIB),
        stall=read_number(arguments, "--stall", least=1, most=86400),
        accepts_per_second=read_count(arguments, "--accepts"),
        handshake_threads=read_count(arguments, "--handshake-threads", most=256),
        ipv6_prefix=read_count(arguments, "--ipv6-prefix", most=128),
    )


def read_workers(arguments: dict[str, Any]) -> int:
    """Return the number of processes that forward.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    if arguments["--workers"] == "auto":
        return len(os.sched_getaffinity(0))
    return read_count(arguments, "--workers", most=256)


def read_count(arguments: dict[str, Any], option: str, most: int = 10_000_000) -> int:
    """Return the value of `option`, a whole number.

    Raises:
        UsageError: it is not a number, or out of range.
    """
    text = arguments[option]
    # Python refuses to read thousands of digits, by another exception.
    readable = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
    count = int(text) if readable else 0
    if not 1 <= count <= most:
        raise UsageError(f"{option} is a whole number from 1 to {most}, not {text!r}")
    return count


def read_number(arguments: dict[str, Any], option: str, least: float, most: float) -> float:
    """Return the value of `option`.

    Raises:
        UsageError: it is not a number, or out of range.
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
