"""The limit of open descriptors, which bounds how many connections a process can have."""

from __future__ import annotations

import contextlib
import resource

DESCRIPTORS_KEPT = 24  # for files, the selector and the log
UNLIMITED = 1 << 30  # stands for no limit
USUAL = 1024  # the limit of a process on most systems


def raise_descriptor_limit() -> int:
    """Raise the limit as far as allowed, and return it."""
    _, hard = _limits()
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return descriptor_limit()


def descriptor_limit() -> int:
    """Return the current limit."""
    limit, _ = _limits()
    return UNLIMITED if limit == resource.RLIM_INFINITY else limit


def _limits() -> tuple[int, int]:
    try:
        return resource.getrlimit(resource.RLIMIT_NOFILE)
    except OSError:  # a sandbox may forbid the call
        return USUAL, USUAL


def connections_for(descriptors: int, fleet: bool) -> int:
    """Return how many connections a limit of `descriptors` allows: 80 %, leaving DESCRIPTORS_KEPT free.

    In a fleet, half of them are for connections with other hosts: each forwarded peer needs one.
    """
    connections = max(4, min(descriptors * 4 // 5, descriptors - DESCRIPTORS_KEPT))
    return connections // 2 if fleet else connections
