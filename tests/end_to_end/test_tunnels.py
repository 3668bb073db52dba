"""Tunnels: all data arrives in order, and both ends are closed together."""

from __future__ import annotations

import hashlib
import os
import select
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.node import assert_joined, at_once, exchange, make_tunnel, receive_count, send_all
from tests.support.peer import TIMEOUT, Peer
from tests.support.relay_process import NewNode, RelayProcess, both_relays

pytestmark = both_relays

MIB = 1 << 20
SIZES = [0, 1, 7, 8, 255, 256, 4095, 4096, 16_384, 65_535, 65_536, 65_537, 262_144, 300_001, 900_000]
ANY_CONTENT = 65_536  # bytes; messages up to this size pass with any content
MAX_MEMORY = 32 * MIB


def wait_until_stuck(peer: Peer) -> None:
    """Wait until the relay takes nothing from the peer for half a second."""
    deadline = time.monotonic() + TIMEOUT
    while select.select([], [peer.sock], [], 0.5)[1]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def ends(new_node: NewNode) -> tuple[Peer, Peer]:
    """The two ends of a tunnel: one of a released node, one of ours."""
    caller, callee = new_node(released=True), new_node()
    return make_tunnel(caller, callee, callee.listen())


def test_every_size_passes_unchanged_both_ways(ends: tuple[Peer, Peer]) -> None:
    there = [os.urandom(size) for size in SIZES]
    back = [bytes(size) for size in reversed(SIZES) if size <= ANY_CONTENT]
    exchange(*ends, there, back + there)


EARLY = {
    "many small": [f"early {i}".encode() for i in range(100)],
    "more than is kept": [bytes([i]) * 10_000 for i in range(100)],
    "one large": [os.urandom(900_000)],
}


@pytest.mark.parametrize("released", [False, True])
@pytest.mark.parametrize("early", EARLY.values(), ids=list(EARLY))
def test_early_data_arrives_first_and_in_order(new_node: NewNode, released: bool, early: list[bytes]) -> None:
    caller, callee = new_node(released), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send_all, near, [*early, b"late"])
        assert listener.incoming() == caller.public_key
        far = callee.accept(caller.public_key)
        assert receive_count(far, len(early) + 1) == [*early, b"late"]
        sending.result(TIMEOUT)
    assert_joined(near, far)


@pytest.mark.parametrize(
    "words", [[b""], [b"x" * 10], [os.urandom(900_000)] * 3], ids=["empty", "small", "large"]
)
def test_last_words_are_delivered_before_the_end(ends: tuple[Peer, Peer], words: list[bytes]) -> None:
    near, far = ends
    with ThreadPoolExecutor(1) as pool:

        def send_and_close() -> None:
            send_all(near, words)
            near.close()

        sending = pool.submit(send_and_close)
        assert far.messages_until_end() == words
        sending.result(TIMEOUT)


def test_both_ends_may_change_their_keys_under_traffic(ends: tuple[Peer, Peer]) -> None:
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
    assert_joined(near, far)
    assert not near.channel.rekey_pending and not far.channel.rekey_pending


def test_slow_reader_holds_up_its_sender_not_the_memory(relay: RelayProcess, ends: tuple[Peer, Peer]) -> None:
    near, far = ends
    count = 34
    before = relay.memory

    def push() -> bytes:
        digest = hashlib.sha256()
        for _ in range(count):
            message = os.urandom(900_000)
            digest.update(message)
            near.send(message)
        return digest.digest()

    with ThreadPoolExecutor(1) as pool:
        pushing = pool.submit(push)
        wait_until_stuck(near)
        assert not pushing.done()
        assert relay.memory - before < MAX_MEMORY
        digest = hashlib.sha256()
        for _ in range(count):
            digest.update(far.receive())
            assert relay.memory - before < MAX_MEMORY
        assert pushing.result(TIMEOUT) == digest.digest()
    assert_joined(near, far)
