"""How long the real relay and the small one wait for their peers."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from offset_common.wire.messages import InitRole
from tests.support.node import Node, at_once
from tests.support.relay_process import BOTH_RELAYS, RelayProcess, write_identity

TIMES = [8, 4, 16, 32, 32]  # seconds: section 7.1
LONGEST = 60.0  # seconds


def seconds_until(end: Callable[[], object]) -> float:
    start = time.monotonic()
    end()
    return time.monotonic() - start


def measure(relay: RelayProcess) -> list[object]:
    """Return how long the relay waits with each timeout: handshake, InitConnection, keepalive and others."""
    with ExitStack() as opened:
        caller, callee, *others = (opened.enter_context(Node(relay.endpoint())) for _ in range(4))
        listener = callee.listen()
        silent, no_init, pending = caller.dial(), caller.open(), caller.connect(callee.public_key)
        kept, idle = (node.open().init(InitRole.LISTEN) for node in others)
        for peer in (silent, no_init, pending, kept, idle):
            peer.sock.settimeout(LONGEST)
        assert listener.incoming() == caller.public_key

        def keep_alive() -> None:
            for _ in range(3):
                time.sleep(10)
                listener.send_keepalive()

        return at_once(
            lambda: seconds_until(silent.wait_for_close),
            lambda: seconds_until(no_init.wait_for_close),
            lambda: seconds_until(kept.receive_any),
            lambda: seconds_until(pending.wait_for_close),
            lambda: seconds_until(idle.wait_for_close),
            keep_alive,
        )


@pytest.mark.slow
def test_both_relays_keep_the_times_of_the_protocol(tmp_path: Path) -> None:
    relays = [RelayProcess(write_identity(tmp_path), script=script) for script in BOTH_RELAYS]
    try:
        for measured in at_once(*[lambda relay=relay: measure(relay) for relay in relays]):
            assert isinstance(measured, list)
            assert all(time - 1 < each < time + 4 for each, time in zip(measured, TIMES)), measured
    finally:
        for relay in relays:
            relay.kill()
