"""Run stforward. The help page in stforward.py is the grammar of its command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from typing import Any, Optional

from offset_common import __version__
from offset_common.command_line import (
    CommandLineError,
    as_started,
    did_you_mean,
    parse,
    run,
)
from offset_common.commands.descriptors import raise_descriptor_limit
from offset_common.commands.forward_arguments import (
    MAX_CONNECTIONS,
    identity_path,
    read_identity,
    read_keep,
    read_name,
    refuse_identity_of_relay,
)
from offset_common.commands.forward_connect import connect, list_services
from offset_common.constants import PUBLIC_KEY_SIZE
from offset_common.errors import FileError
from offset_common.forward.code import Code
from offset_common.forward.config_directory import ConfigDirectory, only_share
from offset_common.forward.display import Display
from offset_common.forward.known_codes import KnownCodes
from offset_common.forward.peers import Peers
from offset_common.forward.process import linger, running_loop
from offset_common.forward.services import Service, parse_services
from offset_common.forward.share import Options, Share
from offset_common.identity import decode_key, encode_key
from offset_common.option_values import naming, read_count
from offset_common.tickets import RelayTicket

VERSION = f"stforward {__version__}"
COMMANDS = {
    "share": ("Sharing:", "Both:"),
    "to": ("Connecting:", "Both:"),
    "list": ("Connecting:", "Both:"),
    "key": ("Both:",),
}
"""Each command, with the groups of its options on the help page."""


def run_stforward(page: str, argv: Optional[Sequence[str]]) -> int:
    """Run stforward; return the exit status.

    Args:
        page: the help page.
        argv: the arguments, without the program name; None for those of the process.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    if argv is None:
        page = as_started(page, "stforward.py")
    return run("stforward", lambda: execute(parse(usage_for(page, words), words, VERSION)))


def usage_for(page: str, words: Sequence[str]) -> str:
    """Return the help page with the usage and options of the given command only, for its error messages.

    Raises:
        UsageError: the command is missing or unknown.
    """
    if {"-h", "--help", "-V", "--version"} & set(words):
        return page
    usage = page.partition("Usage:\n")[2].partition("\n\n")[0].splitlines(keepends=True)
    name = words[0] if words else ""
    if name not in COMMANDS:
        reason = f"unknown command {name!r}{did_you_mean(name, COMMANDS)}" if name else "no command is given"
        raise CommandLineError(reason, "Usage:\n" + "".join(usage).rstrip())
    for line in usage:
        if f" {name} " not in line:
            page = page.replace(line, "")
    groups = {group for each in COMMANDS.values() for group in each}
    for group in groups - {*COMMANDS[name]}:
        page = re.sub(rf"\n{group}\n(?:.+\n)+", "", page)
    return page


def execute(arguments: dict[str, Any]) -> int:
    """Run the command; return the exit status."""
    if arguments.get("key"):
        print(encode_key(read_identity(arguments, ConfigDirectory.of_user()).public_key))
        return 0
    raise_descriptor_limit()
    if arguments.get("share"):
        return share(arguments)
    if arguments.get("to"):
        return connect(arguments)
    return list_services(arguments) if arguments["<machine>"] else list_known(arguments)


def share(arguments: dict[str, Any]) -> int:
    """Share services until a signal; return the exit status."""
    services = parse_services(arguments["<what>"])
    with naming("--allow"):
        allowed = frozenset(decode_key(key, PUBLIC_KEY_SIZE) for key in arguments["--allow"])
    most = read_count("--max", arguments["--max"], MAX_CONNECTIONS)
    options = Options(read_name(arguments), allowed, arguments["--allow-any"], most, read_keep(arguments))
    directory = ConfigDirectory.of_user()
    ticket = RelayTicket.load(arguments["--relay"]) if arguments["--relay"] else directory.relay()
    identity = read_identity(arguments, directory)
    refuse_identity_of_relay(identity, ticket)
    peers = Peers(directory)
    if not options.anyone:
        peers.load()  # reports a mistake now, not when the first caller connects
    display = Display(arguments["--json"])
    with only_share(identity_path(arguments, directory)):
        if arguments["--relay"]:
            try:
                directory.remember_relay(ticket)
            except FileError as error:
                display.problem("not_remembered", f"the relay is not remembered: {error}")
        code = Code(ticket, identity.public_key)
        show_code(code, services, display, arguments["--qr"])
        with running_loop(display) as loop:
            side = Share(loop, ticket, identity, services, peers, options, display)
            side.start()
            loop.run()
            side.stop()
            linger(loop)
    return 0


def show_code(code: Code, services: dict[str, Service], display: Display, qr: bool) -> None:
    """Print the command to run on the other machine."""
    places = [service.suggestion() for service in services.values()]
    if len(services) > 1:
        places = [f"{name}={place}" for name, place in zip(services, places)]
    line = f"stforward to {code} {' '.join(places)}"
    if qr:
        from offset_common.tools.qr import QrCode  # needs segno, which is optional

        QrCode(str(code)).show()
    display.result(line, event="code", code=str(code), services=list(services))


def list_known(arguments: dict[str, Any]) -> int:
    """Print the machines and keys that are remembered."""
    directory = ConfigDirectory.of_user()
    display = Display(arguments["--json"])
    for name, code in KnownCodes(directory).load().items():
        text = f"reach {name}, {encode_key(code.public_key)} through {code.relay.address}"
        display.result(text, event="known", name=name, code=str(code))
    for peer in Peers(directory).load():
        key = encode_key(peer.public_key)
        display.result(str(peer), event="peer", rule=peer.rule.value, key=key, name=peer.name)
    return 0
