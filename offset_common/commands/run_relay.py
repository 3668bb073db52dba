"""Run the relay that a command line describes. The help page in strelay.py is its grammar."""

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
from offset_common.relay.server import Relay, obey_signals, raise_descriptor_limit
from offset_common.relay.signals import Signals

STATUS_SOFTWARE = 70  # EX_SOFTWARE of sysexits.h: the relay itself failed, a supervisor starts it again
MOST_DIGITS = 20  # of a number on the command line


def run_strelay(page: str, argv: Optional[Sequence[str]], signals: Signals) -> int:
    """Run the relay until a signal stops it.

    Args:
        page: the help page, which is the grammar of the command line.
        argv: the arguments, without the program name; None for those of the process.
        signals: already installed.

    Returns:
        The exit status.
    """
    fill_standard_descriptors()
    arguments = sys.argv[1:] if argv is None else argv
    status = run("strelay", lambda: serve(parse(page, arguments, __version__), signals))
    if status == STATUS_SOFTWARE and argv is None:
        # The threads of a relay that failed may never end, and a normal exit waits for them.
        if sys.stderr is not None:
            sys.stderr.flush()
        os._exit(status)
    return status


def fill_standard_descriptors() -> None:
    """Open /dev/null for each closed standard descriptor, or a socket would get the log's number."""
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            os.set_inheritable(nowhere, True)


def serve(arguments: dict[str, Any], signals: Signals) -> int:
    """Start the relay that the arguments describe, and serve.

    Raises:
        OperatorError: it cannot start.
    """
    addresses = [parse_listen_address(text) for text in arguments["--laddr"]]
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
    sockets = listen_on(addresses, limits.socket_buffer)
    signals.hold()
    relay = Relay(identity, sockets, limits, log, workers=workers)
    try:
        with obey_signals(relay, signals, drain):
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
