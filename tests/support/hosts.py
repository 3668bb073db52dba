"""Marks of tests that need something of the machine's network."""

from __future__ import annotations

import socket

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
