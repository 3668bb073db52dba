#!/usr/bin/env python3
"""Passes TCP connections through an Offset relay, encrypted end to end between two keys.

Usage:
  forward.py serve --ticket FILE --idfile FILE --to HOST:PORT (--allow KEY)... [--max N]
  forward.py dial --ticket FILE --idfile FILE --peer KEY --port PORT [--bind IP] [--max N] [--wait SECONDS]
  forward.py key --idfile FILE
  forward.py -h | --help
  forward.py -V | --version

The usual case, an ssh server behind one NAT and its user behind another:
  home$   forward.py serve --ticket relay.relay --idfile home.ident --to 127.0.0.1:22 --allow LAPTOPS_KEY
  laptop$ forward.py dial --ticket relay.relay --idfile laptop.ident --peer HOMES_KEY --port 2222
  laptop$ ssh -p 2222 localhost

  serve lets the allowed keys reach one TCP server. dial listens for TCP connections and passes each
  on to the peer. key prints the public key of an identity: what the other side is to be told.

  -t FILE, --ticket FILE  The ticket of the relay.
  -i FILE, --idfile FILE  Who this side is: an identity, as `stmgr.py gen-ident` makes it.
  --to HOST:PORT          The TCP server that callers reach.
  --allow KEY             The public key of a dial that may reach it; give it again for one more.
  --peer KEY              The public key of the serve to reach.
  --port PORT             Where to listen for TCP connections; 0 takes a free port.
  --bind IP               At which of this host's addresses. Whoever reaches it is let in as this
                          side's key [default: 127.0.0.1].
  --max N                 TCP connections at a time [default: 64].
  --wait SECONDS          How long a TCP connection waits for the peer to be there [default: 30].
  -h, --help              Show this page.
  -V, --version           Show the version.
"""

from __future__ import annotations

import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from examples.forwarding.bridge import reason_of
from examples.forwarding.sides import Dial, Serve, Side
from offset_common import __version__
from offset_common.address import Address, parse_address, parse_listen_address
from offset_common.command_line import CommandLineError, did_you_mean, parse, run
from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import ServiceError, UsageError
from offset_common.identity import decode_key, encode_key, load_identity
from offset_common.relay.server import raise_descriptor_limit
from offset_common.tickets import RelayTicket

COMMANDS = ("serve", "dial", "key")


def run_until_signal(side: Side) -> int:
    """Run until SIGTERM or SIGINT; return the exit status.

    The signals are blocked in every thread and waited for here, so that none interrupts anything.
    A second one ends the program at once.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    main_thread = threading.get_ident()
    failed = threading.Event()

    def work() -> None:
        try:
            side.run()
        finally:
            if not side.stopping.is_set():  # a bug, which is on stderr with its traceback
                failed.set()
                signal.pthread_kill(main_thread, signal.SIGTERM)

    threading.Thread(target=work, daemon=True).start()
    signal.sigwait(signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    side.stop()
    return 1 if failed.is_set() else 0


def make_serve(arguments: dict[str, Any]) -> Side:
    """Make the serve that the arguments describe; OperatorError if they cannot be."""
    most = read_number(arguments, "--max", 1, 1000)
    target = parse_address(arguments["--to"])
    allowed = frozenset(read_key("--allow", key) for key in arguments["--allow"])
    ticket = RelayTicket.load(arguments["--ticket"])
    return Serve(ticket, load_identity(arguments["--idfile"]), most, target, allowed)


def make_dial(arguments: dict[str, Any]) -> Side:
    """Make the dial that the arguments describe, its port taken; OperatorError if that cannot be."""
    most = read_number(arguments, "--max", 1, 1000)
    patience = read_number(arguments, "--wait", 1, 3600)
    port = read_number(arguments, "--port", 0, 65535)
    peer = read_key("--peer", arguments["--peer"])
    ticket = RelayTicket.load(arguments["--ticket"])
    identity = load_identity(arguments["--idfile"])
    server = bind(arguments["--bind"], port)
    return Dial(ticket, identity, most, peer, server, patience)


def bind(host: str, port: int) -> socket.socket:
    """Listen for TCP connections; ServiceError if the system refuses."""
    address = parse_listen_address(str(Address(host, port)))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        raise ServiceError(f"cannot listen on {address}: {reason_of(error)}") from error


def read_key(option: str, text: str) -> bytes:
    """Read a public key of the command line; UsageError if it is none."""
    try:
        return decode_key(text, PUBLIC_KEY_SIZE)
    except UsageError as error:
        raise UsageError(f"the key of {option} {error}") from None


def read_number(arguments: dict[str, Any], option: str, least: int, most: int) -> int:
    """Read a whole number of the command line; UsageError if it is none, or out of range."""
    text = arguments[option]
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise UsageError(f"{option} is a whole number from {least} to {most}, not {text!r}")
    return int(text)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run forward.py; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    return run("forward", lambda: execute(parse(page_for(words), words, __version__)))


def page_for(words: Sequence[str]) -> str:
    """Return the help page, with the usage of one command only, so that an error is about that one.

    Raises:
        UsageError: there is no such command.
    """
    page = __doc__ or ""
    if {"-h", "--help", "-V", "--version"} & set(words):
        return page
    usage = page.partition("Usage:\n")[2].partition("\n\n")[0].splitlines(keepends=True)
    name = words[0] if words else ""
    if name not in COMMANDS:
        reason = (
            f"there is no command {name!r}{did_you_mean(name, COMMANDS)}" if name else "no command is given"
        )
        raise CommandLineError(reason, "Usage:\n" + "".join(usage).rstrip())
    for line in usage:
        if not line.startswith(f"  forward.py {name} "):
            page = page.replace(line, "")
    return page


def execute(arguments: dict[str, Any]) -> int:
    """Do what the command line says; return the exit status."""
    if arguments.get("key"):
        print(encode_key(load_identity(arguments["--idfile"]).public_key))
        return 0
    raise_descriptor_limit()
    return run_until_signal(make_serve(arguments) if arguments.get("serve") else make_dial(arguments))


if __name__ == "__main__":
    sys.exit(main())
