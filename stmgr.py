#!/usr/bin/env python3
"""Make the files of Offset: identities, tickets, node entries and node databases.

Usage:
  stmgr.py <command> [<option>...]
  stmgr.py help [<command>]
  stmgr.py -h | --help
  stmgr.py -V | --version

Commands:
  gen-ident     Make an identity: a private key, in a file that only you can read.
  relay-ticket  Make the ticket of a relay, which nodes need to use it.
  index-ticket  Make the ticket of an index server, which nodes need to use it.
  node-ticket   Make the ticket of a node, which apps need to reach it.
  app-ticket    Make the ticket of an app, which a node needs to let it in.
  node-entry    Make the entry of a node for one app, private key of the app included.
  init-node-db  Make the database of a node that has not run yet.
  show          Show what is in a file, except for private keys.
  relay-check   Check that a relay works: go through it the whole way as two nodes would.
  help          Show this page, or the page of a command.

Options:
  -h, --help     Show this page; after a command, the page of that command.
  -V, --version  Show the version.

No command ever overwrites a file. A command that makes files prints nothing but what it is asked to.
The exit status is 0, 1 if a file cannot be read or made or the relay does not work, 2 if the command line
is wrong.

The relay, for example:
  stmgr.py gen-ident --output relay.ident
  stmgr.py relay-ticket --idfile relay.ident --address relay.example.com:1337 --output relay.relay
  stmgr.py relay-check relay.relay
  stmgr.py show relay.relay --qr
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Callable, Optional

from offset_common import __version__
from offset_common.address import parse_address
from offset_common.command_line import CommandLineError, did_you_mean, parse, run
from offset_common.errors import UsageError
from offset_common.identity import Identity, load_identity, save_identity
from offset_common.tickets import (
    AddressTicket,
    AppTicket,
    IndexTicket,
    NodeDatabase,
    NodeEntry,
    NodeTicket,
    Permissions,
    RelayTicket,
)

VERSION = f"stmgr {__version__}"
MIN_TIMEOUT, MAX_TIMEOUT = 0.1, 3600.0  # seconds

# The values of the options, by their long names. The docstring of a command is its help page.
Values = dict[str, Any]


def gen_ident(values: Values) -> None:
    """Make an identity: a private key, in a file that only you can read.

    Whoever can read the file can be that identity. There is no way to get it back if it is lost.

    Usage:
      stmgr.py gen-ident --output FILE

    Options:
      -o FILE, --output FILE  The identity file to make (.ident).
      -h, --help              Show this page.
      -V, --version           Show the version.
    """
    save_identity(Identity.generate(), values["--output"])


def relay_ticket(values: Values) -> None:
    """Make the ticket of a relay, which nodes need to use it.

    Usage:
      stmgr.py relay-ticket --idfile FILE --address HOST:PORT --output FILE [--qr] [--qr-output PICTURE]

    Options:
      -i FILE, --idfile FILE             The identity file of the relay.
      -a HOST:PORT, --address HOST:PORT  Where nodes reach the relay: relay.example.com:1337,
                                         192.0.2.1:1337 or [2001:db8::1]:1337.
      -o FILE, --output FILE             The ticket to make (.relay).
      --qr                               Show the ticket as a QR code, for the mobile app to scan.
      --qr-output PICTURE                Make a picture of that QR code: a .png or .svg file.
      -h, --help                         Show this page.
      -V, --version                      Show the version.
    """
    ticket = _address_ticket(RelayTicket, values)
    with _qr_code(ticket, values):
        ticket.save(values["--output"])


def index_ticket(values: Values) -> None:
    """Make the ticket of an index server, which nodes need to use it.

    Usage:
      stmgr.py index-ticket --idfile FILE --address HOST:PORT --output FILE

    Options:
      -i FILE, --idfile FILE             The identity file of the index server.
      -a HOST:PORT, --address HOST:PORT  Where nodes reach the index server: index.example.com:1337,
                                         192.0.2.1:1337 or [2001:db8::1]:1337.
      -o FILE, --output FILE             The ticket to make (.index).
      -h, --help                         Show this page.
      -V, --version                      Show the version.
    """
    _address_ticket(IndexTicket, values).save(values["--output"])


def node_ticket(values: Values) -> None:
    """Make the ticket of a node, which apps need to reach it.

    Usage:
      stmgr.py node-ticket --idfile FILE --address HOST:PORT --output FILE

    Options:
      -i FILE, --idfile FILE             The identity file of the node.
      -a HOST:PORT, --address HOST:PORT  Where apps reach the node: node.example.com:1337,
                                         192.0.2.1:1337 or [2001:db8::1]:1337.
      -o FILE, --output FILE             The ticket to make (.ticket).
      -h, --help                         Show this page.
      -V, --version                      Show the version.
    """
    _address_ticket(NodeTicket, values).save(values["--output"])


def app_ticket(values: Values) -> None:
    """Make the ticket of an app, which a node needs to let it in.

    Without any of the last four options the app may only look on.

    Usage:
      stmgr.py app-ticket --idfile FILE --output FILE [--proutes] [--pbuyer] [--pseller] [--pconfig]

    Options:
      -i FILE, --idfile FILE  The identity file of the app.
      -o FILE, --output FILE  The ticket to make (.ticket).
      --proutes               The app may ask for routes.
      --pbuyer                The app may pay.
      --pseller               The app may be paid.
      --pconfig               The app may change the settings of the node.
      -h, --help              Show this page.
      -V, --version           Show the version.
    """
    permissions = Permissions(
        routes=values["--proutes"],
        buyer=values["--pbuyer"],
        seller=values["--pseller"],
        config=values["--pconfig"],
    )
    app = load_identity(values["--idfile"])
    AppTicket(app.public_key, permissions).save(values["--output"])


def node_entry(values: Values) -> None:
    """Make the entry of a node for one app, private key of the app included.

    The file is all that an app needs to use the node. Whoever can read it can be that app.

    Usage:
      stmgr.py node-entry --nodeid FILE --appid FILE --address HOST:PORT --output FILE

    Options:
      -n FILE, --nodeid FILE             The identity file of the node.
      -p FILE, --appid FILE              The identity file of the app.
      -a HOST:PORT, --address HOST:PORT  Where the app reaches the node: node.example.com:1337,
                                         192.0.2.1:1337 or [2001:db8::1]:1337.
      -o FILE, --output FILE             The node entry to make (.rcard).
      -h, --help                         Show this page.
      -V, --version                      Show the version.
    """
    address = parse_address(values["--address"])
    node = load_identity(values["--nodeid"])
    app = load_identity(values["--appid"])
    NodeEntry(node.public_key, address, app.seed).save(values["--output"])


def init_node_db(values: Values) -> None:
    """Make the database of a node that has not run yet.

    Usage:
      stmgr.py init-node-db --idfile FILE --output FILE

    Options:
      -i FILE, --idfile FILE  The identity file of the node.
      -o FILE, --output FILE  The database to make.
      -h, --help              Show this page.
      -V, --version           Show the version.
    """
    NodeDatabase(load_identity(values["--idfile"]).public_key).save(values["--output"])


def show(values: Values) -> None:
    """Show what is in a file, except for private keys.

    It tells what kind of file this is, its public key, and its address or permissions. Of a file with a
    private key it shows the public key that belongs to it.

    Usage:
      stmgr.py show <file> [--qr] [--qr-output PICTURE]

    Options:
      --qr                 Show a ticket as a QR code, for the mobile app to scan.
      --qr-output PICTURE  Make a picture of that QR code: a .png or .svg file.
      -h, --help           Show this page.
      -V, --version        Show the version.
    """
    from offset_common.tools.show import describe, look_into
    from offset_common.tools.terminal import say_lines

    path = values["<file>"]
    shown = look_into(path)
    if shown.ticket is None:
        if values["--qr"] or values["--qr-output"] is not None:
            raise UsageError(f"{path}: is {shown.kind}; only a ticket with an address can be a QR code")
        say_lines(describe(path, shown))
        return
    with _qr_code(shown.ticket, values):
        say_lines(describe(path, shown))


def relay_check(values: Values) -> int:
    """Check that a relay works: go through it the whole way as two nodes would.

    Two nodes that are made up for this meet through the relay: one listens, the other connects, a message
    passes each way, then round trips and throughput are measured. What fails is named, with what to look at.

    Usage:
      stmgr.py relay-check <ticket> [--trace] [--json] [--timeout SECONDS]

    Options:
      --trace            Show every frame, taken apart and explained; nothing is measured then.
      --json             Print one JSON object at the end, for a program.
      --timeout SECONDS  How long each step may take.  [default: 8]
      -h, --help         Show this page.
      -V, --version      Show the version.
    """
    if values["--trace"] and values["--json"]:
        raise UsageError("--trace is for a reader and --json for a program: choose one")
    timeout = _read_seconds(values, "--timeout")
    ticket = RelayTicket.load(values["<ticket>"])
    # A node's side of the protocol: no other command needs it, and it takes its time to import.
    from offset_common.tools.check_report import check_and_report

    return check_and_report(ticket, timeout, trace=values["--trace"], as_json=values["--json"])


COMMANDS: dict[str, Callable[[Values], Optional[int]]] = {
    "gen-ident": gen_ident,
    "relay-ticket": relay_ticket,
    "index-ticket": index_ticket,
    "node-ticket": node_ticket,
    "app-ticket": app_ticket,
    "node-entry": node_entry,
    "init-node-db": init_node_db,
    "show": show,
    "relay-check": relay_check,
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run stmgr.

    Args:
        argv: the arguments, without the name of the program; None for those of the process.

    Returns:
        The exit status: 0, 1 for a file or a relay that does not work, 2 for the command line.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return run("stmgr", lambda: _execute(arguments))


def _execute(argv: Sequence[str]) -> Optional[int]:
    words = parse(_page(None), argv, VERSION, options_first=True)
    name, rest = words["<command>"], words["<option>"]
    if name == "help":
        _show_help(rest)
        return None
    page = _page(name)
    return COMMANDS[name](parse(page, [name, *rest], VERSION))


def _show_help(names: Sequence[str]) -> None:
    print(_page(names[0] if names else None))


def _page(name: Optional[str]) -> str:
    """The help page of a command, or of the whole program."""
    if name is None or name == "help":
        return inspect.cleandoc(__doc__ or "")
    if name not in COMMANDS:
        suggestion = did_you_mean(name, [*COMMANDS, "help"])
        raise CommandLineError(f"there is no command {name!r}{suggestion}", _usage())
    return inspect.getdoc(COMMANDS[name]) or ""


def _usage() -> str:
    return "Usage:" + _page(None).partition("Usage:")[2].partition("\n\n")[0]


def _address_ticket(kind: type[AddressTicket], values: Values) -> AddressTicket:
    address = parse_address(values["--address"])
    return kind(load_identity(values["--idfile"]).public_key, address)


@contextmanager
def _qr_code(ticket: AddressTicket, values: Values) -> Iterator[None]:
    """Show the ticket's QR code, or make a picture of it, after what is done within; refuse before it."""
    picture = values["--qr-output"]
    if not values["--qr"] and picture is None:
        yield
        return
    from offset_common.tools.qr import QrCode, check_picture  # only who wants one has to have segno

    if picture is not None:
        check_picture(picture)
    code = QrCode(ticket)
    yield
    if picture is not None:
        code.save(picture)
    if values["--qr"]:
        code.show()


def _read_seconds(values: Values, option: str) -> float:
    try:
        seconds = float(values[option])
    except ValueError:
        seconds = 0.0
    if not MIN_TIMEOUT <= seconds <= MAX_TIMEOUT:
        limits = f"from {MIN_TIMEOUT:g} to {MAX_TIMEOUT:g}"
        raise UsageError(f"{option} is a number of seconds {limits}, not {values[option]!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
