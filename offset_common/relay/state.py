"""One line that shows what a relay has at the moment, for operators and tests: SIGUSR1 asks for it."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offset_common.relay.server import Relay

_DESCRIPTORS = Path("/proc/self/fd")


def describe(relay: Relay) -> str:
    """Return the line: what there is now, then what there was since the start."""
    links = relay.lobby.origins.all()
    roles = Counter(link.handler.role for link in links)
    now = {
        "connections": len(links),
        **{f"{role}s": roles[role] for role in sorted(roles)},
        "registry entries": len(relay.registry),
        "bytes buffered": relay.host.budget.used,
        "waiting for room": len(relay.host.budget),
        "deadlines": len(relay.loop.deadlines),
        "descriptors": _count_descriptors(),
        "threads": threading.active_count(),
    }
    since = {
        "handshakes": relay.lobby.handshakes,
        "bugs": relay.bugs,
        **{reason.value: count for reason, count in relay.ended.most_common()},
    }
    return f"state: {_show(now)}; since the start: {_show(since)}"


def _show(counts: dict[str, int]) -> str:
    return "; ".join(f"{name} {count}" for name, count in counts.items())


def _count_descriptors() -> int:
    try:
        return len(list(_DESCRIPTORS.iterdir())) - 1  # without the one that reads the directory
    except OSError:
        return 0  # none left, or a system without /proc
