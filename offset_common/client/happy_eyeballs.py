"""Connects to the first of several addresses that answers, without waiting long for one that does not.

A name often has an IPv6 and an IPv4 address, and one of them may lead nowhere without any error. So the next
address is tried while the attempts before it continue.

Source: section 5 of RFC 8305, "Happy Eyeballs".
"""

from __future__ import annotations

import os
import selectors
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Callable

ATTEMPT_DELAY = 0.25  # seconds until the next address is tried as well: "Connection Attempt Delay"


def connect_to_first(addresses: Sequence[tuple[int, Any]], time_left: Callable[[], float]) -> socket.socket:
    """Return a blocking socket, connected to the first address that accepts the connection.

    Args:
        addresses: the address family and the socket address of each, in the order in which to try them.
        time_left: returns the seconds that are left for all attempts together.

    Raises:
        OSError: no address accepts the connection, or (socket.timeout) none in time.
    """
    untried = list(addresses)
    error = OSError("it has no address")
    next_attempt = 0.0
    with selectors.DefaultSelector() as selector:
        try:
            while untried or selector.get_map():
                left = time_left()
                if not left:
                    raise socket.timeout("no answer in time")
                now = time.monotonic()
                if untried and now >= next_attempt:
                    next_attempt = now + ATTEMPT_DELAY
                    try:
                        _begin_to_connect(selector, *untried.pop(0))
                    except OSError as failure:
                        error, next_attempt = failure, now
                    continue
                for key, _ in selector.select(min(left, next_attempt - now) if untried else left):
                    sock = selector.unregister(key.fileobj).fileobj
                    assert isinstance(sock, socket.socket)
                    code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                    if not code:
                        sock.setblocking(True)
                        return sock
                    sock.close()
                    error, next_attempt = OSError(code, os.strerror(code)), now
            raise error
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def _begin_to_connect(selector: selectors.BaseSelector, family: int, address: Any) -> None:
    """Register a socket that is connecting, or is connected already.

    Raises:
        OSError: the system has no route, no such family, or no resources.
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
        with suppress(BlockingIOError):
            sock.connect(address)
        selector.register(sock, selectors.EVENT_WRITE)
    except BaseException:
        sock.close()
        raise
