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
  help          Show this page, or the page of a command.

Options:
  -h, --help     Show this page; after a command, the page of that command.
  -V, --version  Show the version.

No command ever overwrites a file. A command that succeeds prints nothing. The exit
status is 0, 1 if a file cannot be read or made, 2 if the command line is wrong.

The relay, for example:
  stmgr.py gen-ident --output relay.ident
  stmgr.py relay-ticket --idfile relay.ident --address relay.example.com:1337 --output relay.relay
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from typing import Any, Callable, Optional

from offset_common import __version__
from offset_common.address import parse_address
from offset_common.command_line import CommandLineError, did_you_mean, parse, run
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
      stmgr.py relay-ticket --idfile FILE --address HOST:PORT --output FILE

    Options:
      -i FILE, --idfile FILE             The identity file of the relay.
      -a HOST:PORT, --address HOST:PORT  Where nodes reach the relay: relay.example.com:1337,
                                         192.0.2.1:1337 or [2001:db8::1]:1337.
      -o FILE, --output FILE             The ticket to make (.relay).
      -h, --help                         Show this page.
      -V, --version                      Show the version.
    """
    _save_address_ticket(RelayTicket, values)


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
    _save_address_ticket(IndexTicket, values)


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
    _save_address_ticket(NodeTicket, values)


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


COMMANDS: dict[str, Callable[[Values], None]] = {
    "gen-ident": gen_ident,
    "relay-ticket": relay_ticket,
    "index-ticket": index_ticket,
    "node-ticket": node_ticket,
    "app-ticket": app_ticket,
    "node-entry": node_entry,
    "init-node-db": init_node_db,
}


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run stmgr.

    Args:
        argv: the arguments, without the name of the program; None for those of the process.

    Returns:
        The exit status: 0, 1 for a file, 2 for the command line.
    """
    arguments = sys.argv[1:] if argv is None else argv
    return run("stmgr", lambda: _execute(arguments))


def _execute(argv: Sequence[str]) -> None:
    words = parse(_page(None), argv, VERSION, options_first=True)
    name, rest = words["<command>"], words["<option>"]
    if name == "help":
        _show_help(rest)
    else:
        page = _page(name)
        COMMANDS[name](parse(page, [name, *rest], VERSION))


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


def _save_address_ticket(kind: type[AddressTicket], values: Values) -> None:
    address = parse_address(values["--address"])
    identity = load_identity(values["--idfile"])
    kind(identity.public_key, address).save(values["--output"])


if __name__ == "__main__":
    sys.exit(main())
