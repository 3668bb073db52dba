"""Read the arguments that the commands of stforward share."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Optional

from offset_common.errors import UsageError, quote
from offset_common.forward.code import Code
from offset_common.forward.config_directory import IDENTITY, ConfigDirectory
from offset_common.forward.known_codes import KnownCodes
from offset_common.forward.messages import MAX_NAME, clean_name, is_name
from offset_common.identity import Identity, load_identity
from offset_common.option_values import read_number
from offset_common.tickets import RelayTicket

MAX_SECONDS = 86400
MAX_CONNECTIONS = 100_000


def read_machine(arguments: dict[str, Any], known: KnownCodes) -> tuple[Code, str]:
    """Return the code of a machine, and the name to show for it.

    Raises:
        UsageError: there is no such machine, or the name of --as is invalid.
        FileError: the file of codes cannot be read.
    """
    name = _read_name("--as", arguments)
    code = known.find(arguments["<machine>"])
    return code, known.name_of(code) or name or "the other machine"


def identity_path(arguments: dict[str, Any], directory: ConfigDirectory) -> Path:
    """Return the name of the identity file."""
    return Path(arguments["--idfile"] or directory.path / IDENTITY)


def read_identity(arguments: dict[str, Any], directory: ConfigDirectory) -> Identity:
    """Return this machine's identity; raise FileError if it cannot be read or made."""
    return load_identity(arguments["--idfile"]) if arguments["--idfile"] else directory.identity()


def refuse_identity_of_relay(identity: Identity, relay: RelayTicket) -> None:
    """Raise UsageError if an identity is the relay's own, which the relay rejects."""
    if identity.public_key == relay.public_key:
        raise UsageError(
            "this machine has the identity of the relay itself; choose another one with --idfile FILE"
        )


def read_name(arguments: dict[str, Any]) -> str:
    """Return this machine's name for the other side; raise UsageError if the option is invalid."""
    return _read_name("--name", arguments) or clean_name(socket.gethostname().partition(".")[0])


def _read_name(option: str, arguments: dict[str, Any]) -> Optional[str]:
    name: Optional[str] = arguments[option]
    if name is not None and not is_name(name):
        raise UsageError(
            f"{option} must be up to {MAX_NAME} letters, digits, '.', '_' or '-', not {quote(name)}"
        )
    return name


def read_wait(arguments: dict[str, Any]) -> float:
    """Return the seconds of --wait; raise UsageError if they are invalid."""
    return read_number("--wait", arguments["--wait"], 1, MAX_SECONDS, "seconds")


def read_keep(arguments: dict[str, Any]) -> float:
    """Return the seconds of --keep; raise UsageError if they are invalid."""
    return read_number("--keep", arguments["--keep"], 0, MAX_SECONDS, "seconds")
