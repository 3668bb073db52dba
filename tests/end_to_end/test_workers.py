"""A relay with worker processes: the same tunnels, and what becomes of them when a worker dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.end_to_end.conftest import NewNode, StartRelay
from tests.end_to_end.peer import TIMEOUT, Node, tunnel
from tests.end_to_end.relay_process import RelayProcess, write_identity
from tests.end_to_end.test_tunnels import exchange


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay with two workers that the tests of this module share."""
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")), options=["--workers", "2"])
    try:
        yield process
    finally:
        process.end()


def children(relay: RelayProcess) -> list[int]:
    pid = relay.process.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + TIMEOUT
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, f"process {pid} lives on"
        time.sleep(0.01)


@pytest.mark.parametrize("original", [False, True], ids=["small padding", "as released nodes"])
def test_messages_of_every_size_pass_a_worker_unchanged_both_ways(new_node: NewNode, original: bool) -> None:
    caller, callee = new_node(original), new_node(original)
    near, far = tunnel(caller, callee, callee.listen())
    messages = [os.urandom(size) for size in (0, 1, 255, 16_384, 65_537, 300_001, 900_000)]
    exchange(near, far, messages, messages[::-1])


def test_early_messages_move_to_the_worker_in_order(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    messages = [os.urandom(size) for size in (0, 100, 30_000, 900_000, 20_000, 5)]
    near = caller.connect(callee.public_key)
    for message in messages[:3]:
        near.send(message)
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    for message in messages[3:]:
        near.send(message)
    assert [far.receive() for _ in messages] == messages


def test_a_rekey_among_the_early_messages_moves_to_the_worker(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    near.send(b"under the first key")
    near.start_rekey()
    near.send(b"still under it")
    assert near.receive_any() is None  # the answer
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    near.send(b"under the second key")
    assert [far.receive() for _ in range(3)] == [
        b"under the first key",
        b"still under it",
        b"under the second key",
    ]
    far.start_rekey()
    far.send(b"back")
    assert near.receive() == b"back"


def test_last_words_are_delivered_through_a_worker(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    near, far = tunnel(caller, callee, callee.listen())
    words = os.urandom(700_000)
    near.send(words)
    near.close()
    assert far.receive() == words
    assert far.wait_for_end() == []


def test_a_key_gets_its_place_back_when_its_tunnel_in_a_worker_ends(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--workers", "2", "--tunnels", "1"])
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        listener = callee.listen()
        for _ in range(3):
            near, far = tunnel(caller, callee, listener)
            assert caller.connect(callee.public_key).wait_for_end() == []
            ended = sum(" tunnel: " in line for line in relay.lines)
            near.close()
            assert far.wait_for_end() == []
            far.close()
            relay.wait_for_line(" tunnel: ", ended + 2)


def test_a_worker_that_dies_ends_its_tunnels_alone_and_is_started_again(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--workers", "2"])
    with ExitStack() as stack:
        caller, callee = (stack.enter_context(Node(relay.place())) for _ in range(2))
        listener = callee.listen()
        pairs = [tunnel(caller, callee, listener) for _ in range(2)]  # one for each worker
        workers = children(relay)
        assert len(workers) == 2
        os.kill(workers[0], signal.SIGKILL)
        relay.wait_for_line("a worker process ended, and 2 tunnel ends with it")
        alive = 0
        for near, far in pairs:
            near.send(b"still there?")
            try:
                alive += far.receive() == b"still there?"
            except Exception:
                assert near.wait_for_end() == []
        assert alive == 1
        deadline = time.monotonic() + TIMEOUT
        while len(children(relay)) < 2:
            assert time.monotonic() < deadline, "the worker is not started again"
            time.sleep(0.05)
        for _ in range(4):
            near, far = tunnel(caller, callee, listener)
            exchange(near, far, [b"there"], [b"back"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_workers_as_well(start_relay: StartRelay, number: int) -> None:
    relay = start_relay(options=["--workers", "2", "--drain", "0"])
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        near, far = tunnel(caller, callee, callee.listen())
        near.send(b"the last word")
        assert far.receive() == b"the last word"
        workers = children(relay)
        assert relay.stop(number) == 0
        assert near.wait_for_end() == [] and far.wait_for_end() == []
        for worker in workers:
            wait_until_gone(worker)


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT, signal.SIGTERM])
def test_a_worker_leaves_signals_to_the_front_process_from_its_first_moment_on(
    start_relay: StartRelay, number: int
) -> None:
    relay = start_relay(options=["--workers", "2"])
    workers = children(relay)
    for worker in workers:
        os.kill(worker, number)  # it is still reading its modules
    with Node(relay.place()) as caller, Node(relay.place()) as callee:
        listener = callee.listen()
        pairs = [tunnel(caller, callee, listener) for _ in range(2)]  # one for each worker
        for near, far in pairs:
            exchange(near, far, [b"there"], [b"back"])
        for worker in workers:
            os.kill(worker, number)
        for near, far in pairs:
            exchange(near, far, [b"still there"], [b"and back"])
    assert children(relay) == workers
    assert not [line for line in relay.lines if "worker process" in line]


def test_workers_end_when_the_relay_is_killed(start_relay: StartRelay) -> None:
    relay = start_relay(options=["--workers", "2"])
    workers = children(relay)
    relay.stop(signal.SIGKILL)
    for worker in workers:
        wait_until_gone(worker)
