"""Marks of tests that need something of the machine's network, and a port that ignores connections."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


def _knows_localhost() -> bool:
    try:
        return bool(socket.getaddrinfo("localhost", None))
    except OSError:
        return False


needs_ipv6 = pytest.mark.skipif(not _has_ipv6(), reason="this host has no IPv6")
needs_localhost = pytest.mark.skipif(not _knows_localhost(), reason="this host does not know localhost")


@contextlib.contextmanager
def unanswered_port(host: str = "127.0.0.1", port: int = 0) -> Iterator[int]:
    """Make a port ignore new connections, as a firewall that drops packets does; yield its number."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server((host, port), backlog=0))
        with contextlib.suppress(socket.timeout):
            for _ in range(50):  # fill the accept queue; then the system does not answer
                stack.enter_context(socket.create_connection(server.getsockname(), timeout=0.2))
            pytest.skip("this system answers even when the accept queue is full")
        yield server.getsockname()[1]
