"""The commands of stmgr. The main help page is in stmgr.py; the docstring of a command is its page."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Callable, Optional

from offset_common import __version__
from offset_common.address import Address, parse_public_address
from offset_common.command_line import CommandLineError, as_started, did_you_mean, parse, run
from offset_common.commands.check_relay import relay_check
from offset_common.errors import UsageError
from offset_common.fields import Fields
from offset_common.file_kinds import FileKind
from offset_common.files import read_file
from offset_common.identity import Identity, KeyForm, load_identity, save_identity
from offset_common.option_values import naming
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

# Option values by long option name. The docstring of a command is its help page, without these options.
Values = dict[str, Any]
COMMON_OPTIONS = """

Common options:
  -h, --help     Show this page.
  -V, --version  Show the version."""


def gen_ident(values: Values) -> None:
    """Create an identity: a private key in a file that only you can read.

    Anyone who can read the file can act as this identity. A lost file cannot be restored.

    Usage:
      stmgr.py gen-ident --output FILE [--pkcs8]

    Options:
      -o FILE, --output FILE  The identity file to create (.ident).
      --pkcs8                 Write the key in the form that programs up to release 0.1.10 read.
    """
    save_identity(Identity.generate(), values["--output"], _key_form(values))


def relay_ticket(values: Values) -> None:
    """Create the ticket of a relay. Nodes need it to use the relay.

    Usage:
      stmgr.py relay-ticket --idfile FILE --address HOST:PORT --output FILE [--qr] [--qr-output PICTURE]

    Options:
      -i FILE, --idfile FILE             The identity file of the relay.
      -a HOST:PORT, --address HOST:PORT  The relay's public address: relay.example.com:4567,
                                         192.0.2.1:4567 or [2001:db8::1]:4567.
      -o FILE, --output FILE             The ticket to create (.relay).
      --qr                               Show the ticket as a QR code for the mobile app.
      --qr-output PICTURE                Save the QR code as a .png or .svg file.
    """
    ticket = _address_ticket(RelayTicket, values)
    with _qr_code(ticket, values):
        ticket.save(values["--output"])


def index_ticket(values: Values) -> None:
    """Create the ticket of an index server. Nodes need it to use the server.

    Usage:
      stmgr.py index-ticket --idfile FILE --address HOST:PORT --output FILE

    Options:
      -i FILE, --idfile FILE             The identity file of the index server.
      -a HOST:PORT, --address HOST:PORT  The server's public address: index.example.com:4567,
                                         192.0.2.1:4567 or [2001:db8::1]:4567.
      -o FILE, --output FILE             The ticket to create (.index).
    """
    _address_ticket(IndexTicket, values).save(values["--output"])


def node_ticket(values: Values) -> None:
    """Create the ticket of a node. Apps need it to connect to the node.

    Usage:
      stmgr.py node-ticket --idfile FILE --address HOST:PORT --output FILE

    Options:
      -i FILE, --idfile FILE             The identity file of the node.
      -a HOST:PORT, --address HOST:PORT  The node's address for apps: node.example.com:4567,
                                         192.0.2.1:4567 or [2001:db8::1]:4567.
      -o FILE, --output FILE             The ticket to create (.ticket).
    """
    _address_ticket(NodeTicket, values).save(values["--output"])


def app_ticket(values: Values) -> None:
    """Create the ticket of an app. A node needs it to admit the app.

    Without any of the last four options the app has read-only access.

    Usage:
      stmgr.py app-ticket --idfile FILE --output FILE [--proutes] [--pbuyer] [--pseller] [--pconfig]

    Options:
      -i FILE, --idfile FILE  The identity file of the app.
      -o FILE, --output FILE  The ticket to create (.ticket).
      --proutes               The app may request routes.
      --pbuyer                The app may make payments.
      --pseller               The app may receive payments.
      --pconfig               The app may change the node's settings.
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
    """Create a node entry, with which one app can use a node.

    The file includes the app's private key: anyone who can read it can act as that app.

    Usage:
      stmgr.py node-entry --nodeid FILE --appid FILE --address HOST:PORT --output FILE [--pkcs8]

    Options:
      -n FILE, --nodeid FILE             The identity file of the node.
      -p FILE, --appid FILE              The identity file of the app.
      -a HOST:PORT, --address HOST:PORT  The node's address for the app: node.example.com:4567,
                                         192.0.2.1:4567 or [2001:db8::1]:4567.
      -o FILE, --output FILE             The node entry to create (.rcard).
      --pkcs8                            Write the key in the form that programs up to release 0.1.10 read.
    """
    address = _read_address(values)
    node = load_identity(values["--nodeid"])
    app = load_identity(values["--appid"])
    NodeEntry(node.public_key, address, app.seed, _key_form(values)).save(values["--output"])


def init_node_db(values: Values) -> None:
    """Create the database of a new node.

    Usage:
      stmgr.py init-node-db --idfile FILE --output FILE

    Options:
      -i FILE, --idfile FILE  The identity file of the node.
      -o FILE, --output FILE  The database to create.
    """
    NodeDatabase(load_identity(values["--idfile"]).public_key).save(values["--output"])


def convert_key(values: Values) -> None:
    """Copy an identity or node entry, and write its private key in another form.

    The key itself, its public key and all tickets stay the same. Programs up to release 0.1.10 read only the
    PKCS#8 form, release 0.1.11 only the form without it. This program reads both.

    Usage:
      stmgr.py convert-key <file> --output FILE [--pkcs8]

    Options:
      -o FILE, --output FILE  The file to create.
      --pkcs8                 Write the form that programs up to release 0.1.10 read.
    """
    path = values["<file>"]
    text = read_file(path)
    if Fields.parse(path, text).kind() is FileKind.NODE_ENTRY:
        entry = NodeEntry.from_json(text, path)
        replace(entry, key_form=_key_form(values)).save(values["--output"])
    else:
        save_identity(load_identity(path), values["--output"], _key_form(values))


def show(values: Values) -> None:
    """Show the content of a file, except for private keys.

    Shows the kind of file, its public key, and its address or permissions. For a private key, shows the
    public key that belongs to it.

    Usage:
      stmgr.py show <file> [--qr] [--qr-output PICTURE]

    Options:
      --qr                 Show a ticket as a QR code for the mobile app.
      --qr-output PICTURE  Save the QR code as a .png or .svg file.
    """
    from offset_common.tools.show import describe, description_lines
    from offset_common.tools.terminal import print_line

    path = values["<file>"]
    description = describe(path)
    if description.ticket is None and (values["--qr"] or values["--qr-output"] is not None):
        raise UsageError(f"{path} is {description.kind}; choose a ticket with an address for a QR code")
    with _qr_code(description.ticket, values):
        for line in description_lines(path, description):
            print_line(line)


def relay_status(values: Values) -> None:
    """Show the status of a running relay.

    Shows how much of each limit is in use, connections and traffic, why connections ended, and the latest
    important log lines. The relay must run with --status; the URL is that of its page, such as
    http://127.0.0.1:9090. A port alone means this machine.

    Usage:
      stmgr.py relay-status <url> [--watch]

    Options:
      --watch  Refresh every 2 seconds, and show current rates.
    """
    # Imported here because no other command needs it.
    from offset_common.status.relay_status import show_status

    show_status(values["<url>"], values["--watch"])


def access_check(values: Values) -> None:
    """Check an access file before a relay reads it.

    Reports the first mistake with its line, or counts the rules and explains their effect.

    Usage:
      stmgr.py access-check <file>
    """
    from offset_common.policy.access import describe_rules, load_access
    from offset_common.tools.terminal import print_line

    for line in describe_rules(load_access(values["<file>"])):
        print_line(line)


def relay_usage(values: Values) -> None:
    """List the bytes of each month and key in a relay's usage file.

    Lists the bytes that the relay received from each key and sent to it, after the total of all keys. The
    relay may be running; the file lags a few seconds behind it.

    Usage:
      stmgr.py relay-usage <file> [--month MONTH] [--access FILE] [--csv]

    Options:
      --month MONTH  List only this month (UTC), such as 2026-11.
      --access FILE  An access file with names for keys.
      --csv          Print comma-separated values, with a header line.
    """
    from offset_common.policy.usage_report import list_usage

    list_usage(values["<file>"], values["--month"], values["--access"], as_csv=values["--csv"])


COMMANDS: dict[str, Callable[[Values], Optional[int]]] = {
    "gen-ident": gen_ident,
    "relay-ticket": relay_ticket,
    "index-ticket": index_ticket,
    "node-ticket": node_ticket,
    "app-ticket": app_ticket,
    "node-entry": node_entry,
    "init-node-db": init_node_db,
    "convert-key": convert_key,
    "show": show,
    "relay-check": relay_check,
    "relay-status": relay_status,
    "access-check": access_check,
    "relay-usage": relay_usage,
}


def run_stmgr(page: str, argv: Optional[Sequence[str]]) -> int:
    """Run stmgr.

    Args:
        page: the main help page, which is the grammar of the command line up to the command.
        argv: the arguments, without the program name; None for those of the process.

    Returns:
        The exit status; see the help page.
    """
    pages = {"help": inspect.cleandoc(page)}
    for name, command in COMMANDS.items():
        pages[name] = inspect.cleandoc(command.__doc__ or "") + COMMON_OPTIONS
    if argv is None:
        pages = {name: as_started(text, "stmgr.py") for name, text in pages.items()}
        argv = sys.argv[1:]
    arguments = argv
    return run("stmgr", lambda: _execute(pages, arguments))


def _execute(pages: dict[str, str], argv: Sequence[str]) -> Optional[int]:
    if not argv:
        raise CommandLineError("a command is missing", _usage_and_commands(pages))
    words = parse(pages["help"], argv, VERSION, options_first=True)
    name, rest = words["<command>"], words["<option>"]
    topic = rest[0] if name == "help" and rest else name
    if topic not in pages:
        suggestion = did_you_mean(topic, pages)
        raise CommandLineError(f"unknown command {topic!r}{suggestion}", _usage_and_commands(pages))
    if name == "help":
        print(pages[topic])
        return None
    return COMMANDS[name](parse(pages[name], [name, *rest], VERSION))


def _usage_and_commands(pages: dict[str, str]) -> str:
    usage, commands = (
        title + pages["help"].partition(title)[2].partition("\n\n")[0] for title in ("Usage:", "Commands:")
    )
    return f"{usage}\n\n{commands}"


def _key_form(values: Values) -> KeyForm:
    return KeyForm.PKCS8 if values["--pkcs8"] else KeyForm.SEED


def _read_address(values: Values) -> Address:
    with naming("--address"):
        return parse_public_address(values["--address"])


def _address_ticket(kind: type[AddressTicket], values: Values) -> AddressTicket:
    address = _read_address(values)
    return kind(load_identity(values["--idfile"]).public_key, address)


@contextmanager
def _qr_code(ticket: Optional[AddressTicket], values: Values) -> Iterator[None]:
    """Output the ticket's QR code after the body of a with statement; report errors before it runs."""
    picture = values["--qr-output"]
    if ticket is None or (not values["--qr"] and picture is None):
        yield
        return
    from offset_common.tools.qr import QrCode, check_picture  # needs segno, which is optional

    if picture is not None:
        with naming("--qr-output"):
            check_picture(picture)
    code = QrCode(ticket.to_json())
    yield
    if picture is not None:
        code.save(picture)
    if values["--qr"]:
        code.show()
