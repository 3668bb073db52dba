"""A relay with worker processes: its tunnels, signals, and the death of a worker."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.node import Node, assert_joined, exchange, make_tunnel, receive_count
from tests.support.process import wait_until
from tests.support.relay_log import Reason
from tests.support.relay_process import NewNode, StartRelay

RELAY_OPTIONS = ("--workers", "2")


def wait_until_gone(pids: list[int]) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the end of the workers")


@pytest.mark.parametrize("released", [False, True])
def test_every_size_passes_a_worker_both_ways(new_node: NewNode, released: bool) -> None:
    caller, callee = new_node(released), new_node(released)
    near, far = make_tunnel(caller, callee, callee.listen())
    messages = [os.urandom(size) for size in (0, 1, 255, 16_384, 65_537, 300_001, 900_000)]
    exchange(near, far, messages, messages[::-1])


def test_early_rekey_moves_to_the_worker(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    near.send(b"under the first key")
    near.start_rekey()
    near.send(b"still under it")
    assert near.receive_any() is None and not near.channel.rekey_pending
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    near.send(b"under the second key")
    assert receive_count(far, 3) == [b"under the first key", b"still under it", b"under the second key"]
    far.start_rekey()
    assert_joined(near, far)


def test_ended_tunnel_in_a_worker_frees_its_place(start_relay: StartRelay) -> None:
    relay = start_relay("--workers", "2", "--tunnels", "1")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        for _ in range(3):
            near, far = make_tunnel(caller, callee, listener)
            assert caller.connect(callee.public_key).messages_until_end() == []
            ended = len(relay.ends(role="tunnel"))
            near.close()
            assert far.messages_until_end() == []
            far.close()
            relay.wait_for_end(role="tunnel", count=ended + 2)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_relay(start_relay: StartRelay, number: int) -> None:
    relay = start_relay("--workers", "2", "--drain", "0")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        workers = relay.workers
        relay.process.send_signal(number)
        for peer in (near, far):
            assert peer.messages_until_end() == []
            peer.close()
        assert relay.wait() == (-number if number == signal.SIGKILL else 0)
        wait_until_gone(workers)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_workers_ignore_signals(start_relay: StartRelay, number: int) -> None:
    relay = start_relay("--workers", "2")
    workers = relay.workers
    for worker in workers:
        os.kill(worker, number)  # it is still importing its modules
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        pairs = [make_tunnel(caller, callee, listener) for _ in range(2)]  # one for each worker
        for worker in workers:
            os.kill(worker, number)
        for pair in pairs:
            assert_joined(*pair)
    assert relay.workers == workers
    assert not relay.ends(reason=Reason.WORKER_ENDED)
