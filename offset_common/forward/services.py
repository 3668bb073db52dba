"""Shared services, and where they appear: the arguments of `share` and `to`.

share   [NAME=]PORT, [NAME=]HOST:PORT or [NAME=]/PATH    a server on this side
to      [NAME=]PORT, [NAME=]IP:PORT or [NAME=]/PATH      where programs on this side connect to
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, Union

from offset_common.address import Address, parse_address, parse_listen_address
from offset_common.client import Deadline
from offset_common.client.dialing import resolve
from offset_common.client.happy_eyeballs import connect_to_first
from offset_common.errors import (
    UNREPLACED_TILDE,
    ServiceError,
    UsageError,
    listen_error_sentence,
    os_error_sentence,
    quote,
)
from offset_common.forward.messages import MAX_NAME, clean_name, is_name

TARGET_TIMEOUT = 10.0  # seconds to connect to a shared server
BUSY_INTERVAL = 0.05  # seconds between attempts to connect to a Unix socket whose server is busy
BACKLOG = 256
MAX_SERVICES = 64
LOCALHOST = "127.0.0.1"
_SUGGESTED = {22: 2222, 80: 8080, 443: 8443}


class Service(NamedTuple):
    """A server that is shared.

    Args:
        name: its name for the other side.
        target: an address, or the path of a Unix socket.
    """

    name: str
    target: Union[Address, str]

    def connect(self) -> socket.socket:
        """Return a new connection to the server; raise OSError if that fails."""
        if isinstance(self.target, Address):
            return _connect(self.target)
        return _connect_to_path(self.target)

    def suggestion(self) -> str:
        """Suggest where the other side can make it appear: a port that any user may listen on, or a path."""
        if not isinstance(self.target, Address):
            return f"./{self.name}"
        port = self.target.port
        return str(_SUGGESTED.get(port, port if port >= 1024 else port + 10000))


class Place(NamedTuple):
    """Where a service of the other side appears.

    Args:
        service: its name; an empty string for the only service.
        where: an address to listen on, or the path of a Unix socket.
    """

    service: str
    where: Union[Address, str]


def _connect(address: Address) -> socket.socket:
    found: Sequence[tuple[int, Any]]
    if address.host == "localhost":
        # Its addresses are fixed (section 6.3 of RFC 6761); a system without a hosts file knows none.
        found = [(socket.AF_INET6, ("::1", address.port)), (socket.AF_INET, (LOCALHOST, address.port))]
    else:
        found = resolve(address)
    return connect_to_first(found, Deadline(TARGET_TIMEOUT).left)


def _connect_to_path(path: str) -> socket.socket:
    deadline = Deadline(TARGET_TIMEOUT)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(TARGET_TIMEOUT)
        while True:
            try:
                sock.connect(path)
                return sock
            except BlockingIOError:
                # The queue of the server is full. With a timeout, connect(2) reports this instead of waiting.
                if not deadline.left():
                    raise
                time.sleep(BUSY_INTERVAL)
    except BaseException:
        sock.close()
        raise


def parse_services(words: Sequence[str]) -> dict[str, Service]:
    """Read the shared services, by name.

    Raises:
        UsageError: a word is invalid, or two services have the same name.
    """
    services: dict[str, Service] = {}
    for word in words:
        name, text = _split(word)
        target: Union[Address, str] = text
        if "/" not in text:
            if not text.isdigit() and ":" not in text:
                host = f"{word}:22"
                what = "" if name else f" for a port of the host {text}"
                raise UsageError(f"{quote(word)} names no port; write it as in ssh=22, or {host}{what}")
            # Not 127.0.0.1: many development servers listen on ::1 only.
            target = parse_address(f"localhost:{text}" if text.isdigit() else text)
        name = name or (str(target.port) if isinstance(target, Address) else clean_name(Path(text).name))
        if name in services:
            raise UsageError(f"two services are called {name!r}; give them names, as in ssh=22 web=8080")
        services[name] = Service(name, target)
    if len(services) > MAX_SERVICES:
        raise UsageError(f"{len(services)} services are too many; at most {MAX_SERVICES} can be shared")
    return services


def parse_places(words: Sequence[str]) -> list[Place]:
    """Read where services appear: words of the form [NAME=]WHERE, or the two words NAME WHERE.

    Raises:
        UsageError: a word is invalid.
    """
    if len(words) == 2 and is_name(words[0]) and not words[0].isdigit() and "=" not in words[1]:
        words = [f"{words[0]}={words[1]}"]
    places = []
    for word in words:
        name, text = _split(word)
        if "/" in text:
            places.append(Place(name, text))
        elif text.isdigit():
            places.append(Place(name, parse_listen_address(f"{LOCALHOST}:{text}")))
        elif ":" in text:
            places.append(Place(name, parse_listen_address(text)))
        else:
            raise UsageError(f"{word!r} names no port; write {text}=PORT, or add --stdio")
    return places


def _split(word: str) -> tuple[str, str]:
    name, equals, text = word.rpartition("=")
    if text.startswith("~"):
        raise UsageError(f"{quote(word)}: {UNREPLACED_TILDE}")
    if equals and not is_name(name):
        raise UsageError(
            f"{quote(name)} is not a valid service name;"
            f" use up to {MAX_NAME} letters, digits, '.', '_' or '-'"
        )
    if not text:
        raise UsageError(f"{word!r} names no port or path; write it as in ssh=22")
    if "/" in text and text[0] not in "/.":  # http://localhost:80, 22/tcp
        raise UsageError(
            f"{quote(word)} is neither an address, such as localhost:80, nor a path that begins with / or ./"
        )
    return name, text


def listen(where: Union[Address, str]) -> socket.socket:
    """Return a listening socket at an address or path.

    Raises:
        ServiceError: the system refuses it.
    """
    try:
        if isinstance(where, Address):
            family = socket.AF_INET6 if ":" in where.host else socket.AF_INET
            return socket.create_server(where, family=family, backlog=BACKLOG)
        _remove_abandoned(where)
        return _listen_on_path(where)
    except OSError as error:
        raise ServiceError(f"cannot listen on {where}: {_what_to_do(error, where)}") from error


def _what_to_do(error: OSError, where: Union[Address, str]) -> str:
    if error.errno is not None and error.errno < 0:  # create_server keeps only the number of a gaierror
        return "the name does not resolve; check its spelling"
    if isinstance(where, Address):
        return listen_error_sentence(error, where.port)
    if error.errno == errno.EADDRINUSE:
        return "another program listens there, or a file has this name; choose another path"
    if error.errno == errno.ENOENT:
        return f"the directory {str(Path(where).parent)!r} is missing; create it first"
    if error.errno is None:  # Python's own check
        return "the path is too long for a socket; choose a shorter one"
    return os_error_sentence(error)


def _listen_on_path(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    before = os.umask(0o177)  # only this user may connect
    try:
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(before)
    return sock


def _remove_abandoned(path: str) -> None:
    """Remove a socket that a killed process left behind, if nothing listens on it."""
    with suppress(FileNotFoundError):
        if stat.S_ISSOCK(Path(path).stat().st_mode):
            with socket.socket(socket.AF_UNIX) as probe:
                probe.setblocking(False)
                try:
                    probe.connect(path)
                except BlockingIOError:
                    pass  # something listens, and is too busy to accept
                except ConnectionRefusedError:
                    Path(path).unlink()


def describe(where: Union[Address, str]) -> str:
    """Return an address or path as text for people."""
    return f"port {where.port}" if isinstance(where, Address) and where.host == LOCALHOST else str(where)
