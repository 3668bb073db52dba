"""Where the directory is: the value of --fleet.

    valkey://[USER:PASSWORD@]HOST[:PORT][/DATABASE]              one server; valkeys:// with TLS
    valkey+sentinel://HOST[:PORT],HOST[:PORT]/SERVICE[/DATABASE]   Sentinel
    valkey+cluster://HOST[:PORT],HOST[:PORT]                     a cluster
    unix:///PATH[?db=DATABASE]                                   a Unix socket

redis:// and rediss:// are the same as valkey:// and valkeys://. No error quotes the value: it may contain
a password.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, Optional
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from offset_common.address import MAX_PORT, Address
from offset_common.errors import FileError, UsageError
from offset_common.files import read_file

FORMS = "valkey://HOST:PORT/0, valkey+sentinel://HOST:PORT,HOST:PORT/SERVICE or valkey+cluster://HOST:PORT"
PORT, SENTINEL_PORT = 6379, 26379
MAX_DATABASE = 1_000_000
FILE_MARK = "@"  # before the name of a file that contains the value


class Kind(enum.Enum):
    """How the servers work together."""

    SINGLE = ""
    SENTINEL = "+sentinel"
    CLUSTER = "+cluster"


class Location(NamedTuple):
    """Where the directory is, and how to log in.

    Args:
        kind: how the servers work together.
        servers: the servers of the directory, or the Sentinels; none with a Unix socket.
        tls: whether to use TLS.
        username: the user name, or None.
        password: the password, or None.
        database: the number of the database.
        service: the Sentinels' name of the server; empty without Sentinels.
        path: the path of a Unix socket; empty without one.
        options: the values of OPTIONS, by name.
    """

    kind: Kind
    servers: Sequence[Address]
    tls: bool = False
    username: Optional[str] = None
    password: Optional[str] = None
    database: int = 0
    service: str = ""
    path: str = ""
    options: Mapping[str, str] = MappingProxyType({})

    def __repr__(self) -> str:
        return f"<Location {self.kind.name} {','.join(map(str, self.servers)) or self.path}>"


OPTIONS = ("ca", "cert", "key", "sentinel-username", "sentinel-password")
"""Parameters after a question mark: files for TLS, and the login at the Sentinels if it differs."""


def read_location(text: str) -> Location:
    """Return the location that a value describes; `@FILE` is read from a file.

    Raises:
        FileError: the file cannot be read, or contains no valid value.
        UsageError: the value is invalid.
    """
    if not text.startswith(FILE_MARK):
        return parse_location(text)
    path = text[len(FILE_MARK) :]
    content = read_file(path)
    lines = [line.strip() for line in content.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise FileError(path, f"has {len(lines)} lines instead of one: {FORMS}")
    try:
        return parse_location(lines[0])
    except UsageError as error:
        raise FileError(path, str(error)) from None


def has_password(text: str) -> bool:
    """Return whether a value that is not the name of a file contains a password."""
    if text.startswith(FILE_MARK):
        return False
    before_path = text.partition("://")[2].partition("/")[0]
    return ":" in before_path.rpartition("@")[0] or "password" in text.partition("?")[2].lower()


def parse_location(text: str) -> Location:
    """Return the location in a URL.

    Raises:
        UsageError: it is invalid; the error does not quote it.
    """
    try:
        parts = urlsplit(text)
        if any(ord(character) <= 32 for character in text):
            raise ValueError("it contains spaces or control characters")
        return _parse_unix(parts) if parts.scheme == "unix" else _parse_servers(parts)
    except ValueError as error:
        raise UsageError(f"{error}; write it as {FORMS}") from None


def _parse_servers(parts: SplitResult) -> Location:
    name, plus, kind_name = parts.scheme.partition("+")
    if name not in ("valkey", "valkeys", "redis", "rediss"):
        raise ValueError("it does not begin with valkey://, valkeys://, redis://, rediss:// or unix://")
    try:
        kind = Kind(plus + kind_name)
    except ValueError:
        raise ValueError("the word after the '+' is neither sentinel nor cluster") from None
    login, _, hosts = parts.netloc.rpartition("@")
    username, colon, password = login.partition(":")
    port = SENTINEL_PORT if kind is Kind.SENTINEL else PORT
    servers = [_parse_server(each, port) for each in hosts.split(",")]
    if kind is Kind.SINGLE and len(servers) != 1:
        raise ValueError("several hosts need +sentinel or +cluster")
    path = [unquote(each) for each in parts.path.strip("/").split("/") if each]
    service = ""
    if kind is Kind.SENTINEL:
        if not path:
            raise ValueError("the name of the service is missing after the Sentinels")
        service = path.pop(0)
    if len(path) > 1:
        raise ValueError("its path has too many parts")
    database = _parse_database(path[0]) if path else 0
    if kind is Kind.CLUSTER and database:
        raise ValueError("a cluster has only database 0")
    return Location(
        kind,
        servers,
        tls=name.endswith("s") and name != "redis",
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        database=database,
        service=service,
        options=_parse_options(parts.query),
    )


def _parse_unix(parts: SplitResult) -> Location:
    query = dict(parse_qsl(parts.query, keep_blank_values=True))
    database = _parse_database(query.pop("db", "0"))
    if query or parts.netloc.rpartition("@")[2] or not parts.path.startswith("/"):
        raise ValueError("a Unix socket is written as unix:///PATH or unix:///PATH?db=0")
    username, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    return Location(
        Kind.SINGLE,
        (),
        username=unquote(username) or None,
        password=unquote(password) if colon else None,
        database=database,
        path=unquote(parts.path),
    )


def _parse_server(text: str, default_port: int) -> Address:
    host, colon, port = text.rpartition(":") if not text.endswith("]") else (text, "", "")
    if not colon:
        host, port = text, str(default_port)
    host = host.strip("[]")
    if not host:
        raise ValueError("a host is missing")
    if not (port.isascii() and port.isdigit() and len(port) < 6 and 0 < int(port) <= MAX_PORT):
        raise ValueError(f"a port is not a number from 1 to {MAX_PORT}")
    return Address(host, int(port))


def _parse_database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 7 and int(text) <= MAX_DATABASE):
        raise ValueError("the database is not a number")
    return int(text)


def _parse_options(query: str) -> dict[str, str]:
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(set(options) - set(OPTIONS))
    if unknown:
        raise ValueError(f"only these parameters are known: {', '.join(OPTIONS)}")
    return options
