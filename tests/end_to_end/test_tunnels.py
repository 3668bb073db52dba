"""Tunnels through a relay's process: every byte, in order, to the right peer, and an end when it is over."""

from __future__ import annotations

import hashlib
import os
import random
import select
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest

from offset_common.wire.messages import InitRole
from tests.end_to_end.conftest import NewNode
from tests.end_to_end.peer import TIMEOUT, Peer, tunnel
from tests.end_to_end.relay_process import RelayProcess

MIB = 1 << 20
SIZES = [0, 1, 7, 8, 255, 256, 4095, 4096, 16_384, 65_535, 65_536, 65_537, 262_144, 300_001, 900_000]


def at_once(*tasks: Callable[[], object]) -> list[object]:
    """Run tasks in threads of their own; return what they return."""
    with ThreadPoolExecutor(len(tasks)) as pool:
        return [future.result(60) for future in [pool.submit(task) for task in tasks]]


def send_all(peer: Peer, messages: Sequence[bytes]) -> None:
    for message in messages:
        peer.send(message)


def receive_count(peer: Peer, count: int) -> list[bytes]:
    return [peer.receive() for _ in range(count)]


def exchange(near: Peer, far: Peer, there: Sequence[bytes], back: Sequence[bytes]) -> None:
    """Send both ways at once, and check what arrives."""
    _, _, at_far, at_near = at_once(
        lambda: send_all(near, there),
        lambda: send_all(far, back),
        lambda: receive_count(far, len(there)),
        lambda: receive_count(near, len(back)),
    )
    assert at_far == list(there)
    assert at_near == list(back)


def wait_until_stuck(peer: Peer) -> None:
    """Wait until nobody takes what the peer sends."""
    deadline = time.monotonic() + TIMEOUT
    while select.select([], [peer.sock], [], 0.5)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def ends(new_node: NewNode) -> tuple[Peer, Peer]:
    """The two ends of a tunnel: one of a released node, one of ours."""
    caller, callee = new_node(original=True), new_node()
    return tunnel(caller, callee, callee.listen())


def test_messages_of_every_size_pass_unchanged_both_ways_at_once(ends: tuple[Peer, Peer]) -> None:
    there = [os.urandom(size) for size in SIZES]
    back = [bytes(size) for size in reversed(SIZES)]
    exchange(*ends, there, back)


def test_a_message_that_comes_a_byte_at_a_time_passes(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    far.hold()
    far.send(b"slowly")
    for byte in far.take_held():
        far.send_bytes(bytes([byte]))
    assert near.receive() == b"slowly"


def test_forty_tunnels_at_a_time_keep_their_messages_apart(new_node: NewNode) -> None:
    callee = new_node()
    listener = callee.listen()
    callers = [new_node(original=bool(i % 2)) for i in range(40)]
    pairs = [tunnel(caller, callee, listener) for caller in callers]

    def talk(number: int) -> None:
        near, far = pairs[number]
        words = random.Random(number)
        for _ in range(5):
            message = words.randbytes(words.randrange(3000))
            near.send(message)
            assert far.receive() == message
            far.send(message[::-1])
            assert near.receive() == message[::-1]

    at_once(*(lambda number=number: talk(number) for number in range(40)))


def test_what_a_connect_sends_before_it_is_accepted_arrives_first_and_in_order(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    early = [f"early {i}".encode() for i in range(100)]
    send_all(near, early)
    assert listener.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    near.send(b"late")
    assert receive_count(far, 101) == [*early, b"late"]


@pytest.mark.parametrize("original", [False, True])
def test_early_data_of_far_more_than_is_kept_arrives_in_order(new_node: NewNode, original: bool) -> None:
    caller, callee = new_node(original), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    early = [bytes([i]) * 10_000 for i in range(100)]
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_all, near, early)
        assert listener.incoming() == caller.public_key
        assert receive_count(callee.accept(caller.public_key), 100) == early
        sending.result(TIMEOUT)


def test_one_early_message_of_900_000_bytes_arrives(new_node: NewNode) -> None:
    caller, callee = new_node(original=True), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    early = os.urandom(900_000)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(near.send, early)
        assert listener.incoming() == caller.public_key
        far = callee.accept(caller.public_key)
        assert far.receive() == early
        sending.result(TIMEOUT)
    far.send(b"answer")
    assert near.receive() == b"answer"


def test_what_an_acceptor_sends_right_behind_its_accept_arrives(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    near.hold()
    near.send(os.urandom(30_000))
    whole = near.take_held()
    near.send_bytes(whole[:20_000])  # a frame that is half there when the tunnel is made
    assert listener.incoming() == caller.public_key
    far = callee.open()
    far.hold()
    far.init(InitRole.ACCEPT, caller.public_key)
    send_all(far, [b"first", b"second"])
    far.release()
    assert receive_count(near, 2) == [b"first", b"second"]
    near.send_bytes(whole[20_000:])
    assert len(far.receive()) == 30_000


@pytest.mark.parametrize("size", [0, 10, 900_000])
def test_last_words_are_delivered_before_the_end(ends: tuple[Peer, Peer], size: int) -> None:
    near, far = ends
    words = os.urandom(size)
    near.send(words)
    near.close()
    assert far.wait_for_end() == [words]


def test_a_large_farewell_is_delivered_to_a_reader_who_comes_late(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    words = [os.urandom(900_000) for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:

        def send_and_close() -> None:
            send_all(near, words)
            near.close()

        sending = pool.submit(send_and_close)
        assert far.wait_for_end() == words
        sending.result(TIMEOUT)


def test_a_half_closed_end_ends_the_tunnel_after_its_last_words(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    far.send(b"to the one who stops")
    assert near.receive() == b"to the one who stops"
    near.send(b"last words")
    near.half_close()
    assert far.wait_for_end() == [b"last words"]
    assert near.wait_for_end() == []


def test_a_reset_of_one_end_ends_the_other(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    near.reset()
    assert far.wait_for_end() == []


def test_a_broken_message_ends_the_tunnel_after_what_came_before_it(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    near.hold()
    near.send(b"good")
    near.send_frame(bytes(40))
    near.release()
    assert far.wait_for_end() == [b"good"]
    assert near.wait_for_end() == []


def test_each_end_of_a_tunnel_may_change_its_keys_in_the_middle(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    for initiator in (near, far, near):
        before = initiator.rekeys
        initiator.start_rekey()
        send_all(near, [b"under the old key" * 5000, b"there"])
        send_all(far, [b"back" * 20_000])
        assert receive_count(far, 2) == [b"under the old key" * 5000, b"there"]
        assert receive_count(near, 1) == [b"back" * 20_000]
        near.send(b"what is said now comes behind the relay's answer")
        far.receive()
        far.send(b"and here as well")
        near.receive()
        assert initiator.rekeys == before + 1
        exchange(near, far, [os.urandom(70_000)] * 3, [os.urandom(70_000)] * 3)


def test_both_ends_may_change_their_keys_at_once_under_traffic(ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    messages = [os.urandom(50_000) for _ in range(20)]

    def send_with_rekey(peer: Peer) -> None:
        send_all(peer, messages[:5])
        peer.start_rekey()
        send_all(peer, messages[5:])

    _, _, at_near, at_far = at_once(
        lambda: send_with_rekey(near),
        lambda: send_with_rekey(far),
        lambda: receive_count(near, 20),
        lambda: receive_count(far, 20),
    )
    assert at_near == at_far == messages


def test_a_reader_that_pauses_holds_up_the_sender_and_not_the_memory(
    relay: RelayProcess, ends: tuple[Peer, Peer]
) -> None:
    near, far = ends
    messages = 34
    before = relay.memory

    def push() -> bytes:
        digest = hashlib.sha256()
        for _ in range(messages):
            message = os.urandom(900_000)
            digest.update(message)
            near.send(message)
        return digest.digest()

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push)
        wait_until_stuck(near)
        assert not pushing.done()
        assert relay.memory - before < 32 * MIB
        digest = hashlib.sha256()
        for _ in range(messages):
            digest.update(far.receive())
            assert relay.memory - before < 32 * MIB
        assert pushing.result(TIMEOUT) == digest.digest()
    far.send(b"got it")
    assert near.receive() == b"got it"
