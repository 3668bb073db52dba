"""A relay that stops: both ends of a tunnel still get what the other one has sent."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.support.node import Node, at_once, make_tunnel, receive_count, send_all
from tests.support.peer import Peer
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import RelayProcess, StartRelay

# About 1 MB: the relay reads all of it from a sender, but the kernel's buffers for a peer that does not read
# cannot hold all of it.
MESSAGES = [os.urandom(40_000) for _ in range(24)]

alone_and_with_workers = pytest.mark.parametrize(
    "options", [(), ("--workers", "2")], ids=["alone", "with workers"]
)


def unread_bytes(relay: RelayProcess, peer: Peer) -> int:
    """Return how many bytes have arrived from a peer that the relay has not read."""
    ports = (relay.port, peer.port)
    for row in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues, *_ = row.split()
        if tuple(int(address.rpartition(":")[2], 16) for address in (local, remote)) == ports:
            return int(queues.rpartition(":")[2], 16)
    raise AssertionError(f"the relay has no connection of port {peer.port}")


def fill(relay: RelayProcess, *ends: Peer) -> None:
    """Send the messages from both ends of a tunnel, and wait until the relay has read them."""
    at_once(*(partial(send_all, end, MESSAGES) for end in ends))
    wait_until(lambda: not any(unread_bytes(relay, end) for end in ends), "reading all")


@alone_and_with_workers
def test_stop_delivers_what_both_ends_did_not_read(start_relay: StartRelay, options: tuple[str, ...]) -> None:
    relay = start_relay("--drain", "0", *options)
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        ends = make_tunnel(caller, callee, callee.listen())
        fill(relay, *ends)
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        received = at_once(*(end.messages_until_end for end in ends))
    assert received == [MESSAGES, MESSAGES]
    assert relay.wait() == 0


@alone_and_with_workers
def test_drain_lets_slow_readers_catch_up(start_relay: StartRelay, options: tuple[str, ...]) -> None:
    relay = start_relay("--drain", str(PATIENCE), *options)
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        fill(relay, near, far)
        relay.process.send_signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        near.send(b"during the drain")
        assert receive_count(far, len(MESSAGES) + 1) == [*MESSAGES, b"during the drain"]
        near.half_close()
        assert far.messages_until_end() == []
        far.close()
        assert near.messages_until_end() == MESSAGES
    assert relay.wait() == 0
