"""Socket activation: listening sockets that systemd opens and passes to the relay.

Source: sd_listen_fds(3) of systemd.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import MutableMapping

from offset_common.errors import UsageError, quote

FIRST_DESCRIPTOR = 3
MAX_SOCKETS = 256


def take_passed_sockets(environment: MutableMapping[str, str]) -> list[tuple[str, socket.socket]]:
    """Return the sockets that systemd passed to this process, with their names.

    The variables are removed from the environment, and child processes do not inherit the descriptors.

    Args:
        environment: the environment of the process.

    Raises:
        UsageError: the variables are malformed, or a descriptor is not a listening TCP socket.
    """
    process, count, names, _ = (
        environment.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES", "PIDFDID")
    )
    if process != str(os.getpid()):
        return []  # they were meant for another process
    if not (count.isascii() and count.isdigit() and 0 < len(count) < 6 and 0 < int(count) <= MAX_SOCKETS):
        raise UsageError(
            f"LISTEN_FDS must be a number from 1 to {MAX_SOCKETS}, not {quote(count)}; unset LISTEN_PID"
        )
    listed = names.split(":") if names else []
    if listed and len(listed) != int(count):
        raise UsageError(f"LISTEN_FDNAMES has {len(listed)} names for {count} sockets; unset LISTEN_PID")
    descriptors = range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count))
    return [
        (name, _take(descriptor, name)) for descriptor, name in zip(descriptors, listed or [""] * int(count))
    ]


def _take(descriptor: int, name: str) -> socket.socket:
    shown = f"descriptor {descriptor}{f' ({name})' if name else ''}, which systemd passed,"
    try:
        if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
            raise UsageError(f"{shown} is not a socket; pass only sockets of ListenStream=")
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"{shown} cannot be used: {error.strerror or error}") from None
    sock.set_inheritable(False)
    if sock.type != socket.SOCK_STREAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise UsageError(f"{shown} is not a TCP socket; use ListenStream= with a port")
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise UsageError(f"{shown} does not listen; use Accept=no in the socket unit")
    return sock
