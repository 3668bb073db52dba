"""The options of a fleet on the command line."""

from __future__ import annotations

import socket
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, NamedTuple, Optional

from offset_common.address import Address, parse_address, parse_listen_address
from offset_common.errors import FileError, UsageError
from offset_common.files import open_file
from offset_common.fleet.entries import MAX_NAME_SIZE
from offset_common.fleet.fleet import FleetOptions
from offset_common.fleet.location import FILE_MARK, Location, has_password, read_location
from offset_common.option_values import naming
from offset_common.relay.sockets import resolve

WILDCARDS = frozenset({"0.0.0.0", "::"})


class FleetArguments(NamedTuple):
    """The options of a fleet, before anything is opened.

    Args:
        location: where the directory is.
        listen: the address to listen on for other hosts.
        public: the address where they reach this host; None for that of the listening socket.
        name: the name of this host.
    """

    location: Location
    listen: Address
    public: Optional[Address]
    name: str


def refuse_password(text: str) -> None:
    """Refuse a password on the command line, which every user of the host can read.

    Raises:
        UsageError: there is a password.
    """
    if has_password(text):
        raise UsageError(
            "--fleet: every user of this host can read a password on the command line; write the URL into a"
            " file that only this user can read, and give --fleet @FILE"
        )


def exposed_file(text: str, location: Location) -> Optional[str]:
    """Return the file of --fleet if it contains a password that other users can read, or None.

    Args:
        text: the value of --fleet.
        location: the location in it.
    """
    secret = location.password or location.options.get("sentinel-password")
    if not secret or not text.startswith(FILE_MARK):
        return None
    path = text[len(FILE_MARK) :]
    mode = Path(path).stat().st_mode
    return path if stat.S_ISREG(mode) and mode & (stat.S_IRGRP | stat.S_IROTH) else None


def read_fleet(arguments: Mapping[str, Any]) -> FleetArguments:
    """Return the options of a fleet in the arguments.

    Args:
        arguments: by option name, as docopt returns them; --fleet is given.

    Raises:
        OperatorError: a value is invalid, or a file cannot be read.
    """
    with naming("--fleet"):
        location = read_location(arguments["--fleet"])
    check_tls_files(location)
    if arguments["--fleet-laddr"] is None:
        raise UsageError("--fleet needs --fleet-laddr IP:PORT, the address that the other hosts connect to")
    with naming("--fleet-laddr"):
        listen = parse_listen_address(arguments["--fleet-laddr"])
    text = arguments["--fleet-address"]
    if text is None and listen.host in WILDCARDS:
        raise UsageError(
            f"--fleet-laddr {listen} stands for every address of this host; add --fleet-address HOST:PORT,"
            " the one that the other hosts can reach"
        )
    with naming("--fleet-address"):
        public = None if text is None else parse_address(text)
    return FleetArguments(location, listen, public, read_name(arguments["--fleet-name"]))


def check_tls_files(location: Location) -> None:
    """Check the files for TLS; the client library would name neither the file nor the problem.

    Raises:
        FileError: one cannot be read, or has something else in it.
    """
    ca, cert, key = (location.options.get(name) for name in ("ca", "cert", "key"))
    for path in (ca, cert, key):
        if path is not None:
            with open_file(path):
                pass
    context = ssl.create_default_context()
    if ca is not None:
        try:
            context.load_verify_locations(ca)
        except ssl.SSLError:
            raise FileError(ca, "this has no certificates in PEM format; check its name") from None
    if cert is not None:
        try:
            context.load_cert_chain(cert, key, password="")  # without one, it would ask on the terminal
        except ssl.SSLError:
            reason = "this certificate cannot be used with its key; give both as PEM, without a password"
            raise FileError(cert, reason) from None


def open_fleet(
    arguments: FleetArguments, listen_on: Callable[[Address], list[socket.socket]]
) -> FleetOptions:
    """Listen for other hosts; return the options of the fleet.

    Args:
        arguments: from `read_fleet`.
        listen_on: returns listening sockets for an address.

    Raises:
        ServiceError: the address is not available, or a name does not resolve.
    """
    sockets = listen_on(arguments.listen)
    public = arguments.public or Address(*sockets[0].getsockname()[:2])
    with naming("--fleet-address"):
        found = resolve(public)[0]
    address = Address(str(found.sockaddr[0]).partition("%")[0], public.port)
    return FleetOptions(arguments.location, sockets, address, arguments.name)


def read_name(text: Optional[str]) -> str:
    """Return the name of this host, its host name by default.

    Raises:
        UsageError: it is not a valid name.
    """
    name = socket.gethostname()[:MAX_NAME_SIZE] if text is None else text
    if not name or len(name) > MAX_NAME_SIZE or not all(c.isalnum() or c in "-._" for c in name):
        raise UsageError(
            f"--fleet-name must be 1 to {MAX_NAME_SIZE} letters, digits, '-', '.' and '_', such as relay-1"
        )
    return name
