#!/usr/bin/env python3
"""Forward TCP connections through an Offset relay, encrypted end to end between two keys.

Usage:
  forward.py serve --ticket FILE --idfile FILE --to HOST:PORT (--allow KEY)... [--max N]
  forward.py dial --ticket FILE --idfile FILE --peer KEY --port PORT [--bind IP] [--max N] [--wait SECONDS]
  forward.py key --idfile FILE
  forward.py -h | --help
  forward.py -V | --version

A common use, an ssh server behind one NAT and its user behind another:
  home$   forward.py serve --ticket relay.relay --idfile home.ident --to 127.0.0.1:22 --allow LAPTOPS_KEY
  laptop$ forward.py dial --ticket relay.relay --idfile laptop.ident --peer HOMES_KEY --port 2222
  laptop$ ssh -p 2222 localhost

  serve gives the allowed keys access to one TCP server. dial listens for TCP connections and forwards
  them to the peer. key prints the public key of an identity, which the other side needs.

  -t FILE, --ticket FILE  The ticket of the relay.
  -i FILE, --idfile FILE  The identity of this side, created by `stmgr.py gen-ident`.
  --to HOST:PORT          The TCP server.
  --allow KEY             The public key of a dial that may connect; can be given more than once.
  --peer KEY              The public key of the serve to connect to.
  --port PORT             The port to listen on for TCP connections; 0 for a free one.
  --bind IP               The address to listen on. Anyone who can connect to it uses this side's
                          key [default: 127.0.0.1].
  --max N                 The maximum number of TCP connections [default: 64].
  --wait SECONDS          How long a TCP connection waits for the peer [default: 30].
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

    All threads block the signals and the main thread waits for them, so no system call is interrupted.
    A second signal kills the program.
    """
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    main_thread = threading.get_ident()
    failed = threading.Event()

    def work() -> None:
        try:
            side.run()
        finally:
            if not side.stopping.is_set():  # a bug; its traceback is on stderr
                failed.set()
                signal.pthread_kill(main_thread, signal.SIGTERM)

    threading.Thread(target=work, daemon=True).start()
    signal.sigwait(signals)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
    side.stop()
    return 1 if failed.is_set() else 0


def make_serve(arguments: dict[str, Any]) -> Side:
    """Create a Serve from the arguments; raise OperatorError if they are invalid."""
    limit = read_number(arguments, "--max", 1, 1000)
    target = parse_address(arguments["--to"])
    allowed = frozenset(read_key("--allow", key) for key in arguments["--allow"])
    ticket = RelayTicket.load(arguments["--ticket"])
    return Serve(ticket, load_identity(arguments["--idfile"]), limit, target, allowed)


def make_dial(arguments: dict[str, Any]) -> Side:
    """Create a Dial from the arguments and open its port; raise OperatorError if that fails."""
    limit = read_number(arguments, "--max", 1, 1000)
    patience = read_number(arguments, "--wait", 1, 3600)
    port = read_number(arguments, "--port", 0, 65535)
    peer = read_key("--peer", arguments["--peer"])
    ticket = RelayTicket.load(arguments["--ticket"])
    identity = load_identity(arguments["--idfile"])
    server = bind(arguments["--bind"], port)
    return Dial(ticket, identity, limit, peer, server, patience)


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket; raise ServiceError if the system refuses it."""
    address = parse_listen_address(str(Address(host, port)))
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=128)
    except OSError as error:
        raise ServiceError(f"cannot listen on {address}: {reason_of(error)}") from error


def read_key(option: str, text: str) -> bytes:
    """Return the public key given for an option; raise UsageError if it is invalid."""
    return decode_key(text, PUBLIC_KEY_SIZE, f"the key of {option}")


def read_number(arguments: dict[str, Any], option: str, least: int, most: int) -> int:
    """Return the integer given for an option; raise UsageError if it is invalid or out of range."""
    text = arguments[option]
    if not text.isascii() or not text.isdigit() or not least <= int(text[:9]) <= most:
        raise UsageError(f"{option} {text!r} is invalid; use a whole number from {least} to {most}")
    return int(text)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run forward.py; return the exit status."""
    words = sys.argv[1:] if argv is None else argv
    return run("forward", lambda: execute(parse(page_for(words), words, __version__)))


def page_for(words: Sequence[str]) -> str:
    """Return the help page with the usage of the given command only, so that errors refer to it.

    Raises:
        UsageError: the command is missing or unknown.
    """
    page = __doc__ or ""
    if {"-h", "--help", "-V", "--version"} & set(words):
        return page
    usage = page.partition("Usage:\n")[2].partition("\n\n")[0].splitlines(keepends=True)
    name = words[0] if words else ""
    if name not in COMMANDS:
        reason = f"unknown command {name!r}{did_you_mean(name, COMMANDS)}" if name else "no command is given"
        raise CommandLineError(reason, "Usage:\n" + "".join(usage).rstrip())
    for line in usage:
        if not line.startswith(f"  forward.py {name} "):
            page = page.replace(line, "")
    return page


def execute(arguments: dict[str, Any]) -> int:
    """Run the command; return the exit status."""
    if arguments.get("key"):
        print(encode_key(load_identity(arguments["--idfile"]).public_key))
        return 0
    raise_descriptor_limit()
    return run_until_signal(make_serve(arguments) if arguments.get("serve") else make_dial(arguments))


if __name__ == "__main__":
    sys.exit(main())
