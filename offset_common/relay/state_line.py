"""The current state of a relay, for operators and tests; SIGUSR1 logs it."""

from __future__ import annotations

import os
import threading
from collections import Counter
from typing import Any, Protocol

from offset_common.relay.admission import Admission
from offset_common.relay.buffer_pool import BufferPool
from offset_common.relay.event_loop import EventLoop
from offset_common.relay.lifecycle import State
from offset_common.relay.rendezvous import Rendezvous
from offset_common.relay.totals import Totals

_DESCRIPTORS = "/proc/self/fd"


class DescribedRelay(Protocol):
    """The parts of a relay that its state describes."""

    loop: EventLoop
    buffers: BufferPool
    admission: Admission
    rendezvous: Rendezvous
    totals: Totals


def describe(relay: DescribedRelay) -> dict[str, Any]:
    """Return the current figures, then totals since startup, as fields for the log."""
    connections = relay.admission.all()
    states = Counter(connection.session.state for connection in connections)
    return {
        "connections": len(connections),
        "handshakes": states[State.HANDSHAKE],
        "awaiting_init": states[State.AWAITING_INIT],
        "listeners": states[State.LISTENER],
        "pending_connects": states[State.PENDING_CONNECT],
        "tunnels": states[State.TUNNEL],
        "closing": states[State.FLUSHING] + states[State.LINGERING],
        "registry_entries": len(relay.rendezvous.registry),
        "buffered_bytes": relay.buffers.used,
        "waiting_for_buffers": relay.buffers.waiting,
        "deadlines": len(relay.loop.deadlines),
        "descriptors": _count_descriptors(),
        "threads": threading.active_count(),
        "completed_handshakes": relay.rendezvous.authenticated,
        "bugs": relay.totals.bugs,
        "ended": {reason.value: count for reason, count in relay.totals.ended.most_common()},
    }


def _count_descriptors() -> int:
    try:
        names = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - there may be 50,000, and pathlib takes 4 times as long
        return len(names) - 1  # without the one that reads the directory
    except OSError:
        return 0  # none left, or a system without /proc
