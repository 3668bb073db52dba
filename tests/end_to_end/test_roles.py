"""Listen, connect, accept, reject: who meets whom, and what ends with what."""

from __future__ import annotations

import os
import random
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.wire.messages import InitConnection, InitRole
from tests.end_to_end.conftest import NewNode
from tests.end_to_end.peer import Node, Peer, encode, tunnel
from tests.end_to_end.relay_process import RelayProcess


def assert_joined(near: Peer, far: Peer) -> None:
    """Pass a message each way."""
    near.send(b"there")
    assert far.receive() == b"there"
    far.send(b"back")
    assert near.receive() == b"back"


def assert_listening(caller: Node, callee: Node, listener: Peer) -> None:
    """Meet through a listener."""
    assert_joined(*tunnel(caller, callee, listener))


def test_twelve_connects_to_one_listener_are_accepted_in_another_order(new_node: NewNode) -> None:
    callee = new_node()
    listener = callee.listen()
    callers = [new_node(original=bool(i % 3)) for i in range(12)]
    ends = {caller.public_key: caller.connect(callee.public_key) for caller in callers}
    announced = [listener.incoming() for _ in callers]
    assert sorted(announced) == sorted(ends)
    random.Random(12).shuffle(announced)
    accepted = {key: callee.accept(key) for key in announced}
    for key, end in ends.items():
        end.send(key)
    for key, end in accepted.items():
        assert end.receive() == key


def test_two_connects_of_one_key_are_announced_and_accepted_one_after_the_other(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    first = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    second = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    assert_joined(first, callee.accept(caller.public_key))
    assert_joined(second, callee.accept(caller.public_key))


def test_a_node_may_connect_to_itself(new_node: NewNode) -> None:
    node = new_node()
    assert_listening(node, node, node.listen())


def test_two_hundred_connects_within_a_moment_are_all_announced(new_node: NewNode) -> None:
    callee = new_node()
    listener = callee.listen()
    callers = [new_node() for _ in range(200)]
    opened = [caller.open() for caller in callers]
    for peer in opened:
        peer.init(InitRole.CONNECT, callee.public_key)
    assert {listener.incoming() for _ in callers} == {caller.public_key for caller in callers}


def test_a_rejected_connect_is_closed_and_no_other(new_node: NewNode) -> None:
    callee, wanted, unwanted = new_node(), new_node(), new_node()
    listener = callee.listen()
    good, bad = wanted.connect(callee.public_key), unwanted.connect(callee.public_key)
    assert {listener.incoming(), listener.incoming()} == {wanted.public_key, unwanted.public_key}
    listener.reject(unwanted.public_key)
    assert bad.wait_for_end() == []
    assert_joined(good, callee.accept(wanted.public_key))


def test_a_rejection_of_who_does_not_wait_is_ignored(new_node: NewNode) -> None:
    callee = new_node()
    listener = callee.listen()
    listener.reject(os.urandom(32))
    assert_listening(new_node(), callee, listener)


def test_a_listener_cannot_reject_what_waits_for_another(new_node: NewNode) -> None:
    caller, callee, stranger = new_node(), new_node(), new_node()
    listener, other = callee.listen(), stranger.listen()
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    other.reject(caller.public_key)
    assert_listening(new_node(), stranger, other)
    assert_joined(near, callee.accept(caller.public_key))


@pytest.mark.parametrize("role", [InitRole.ACCEPT, InitRole.CONNECT])
def test_accept_without_a_connect_and_connect_without_a_listener_are_closed(
    new_node: NewNode, role: InitRole
) -> None:
    assert new_node().open().init(role, os.urandom(32)).wait_for_end() == []


def test_only_the_node_that_is_meant_can_accept(new_node: NewNode) -> None:
    caller, callee, stranger = new_node(), new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    assert stranger.accept(caller.public_key).wait_for_end() == []
    assert_joined(near, callee.accept(caller.public_key))


def test_a_connect_is_accepted_once(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    near, far = tunnel(caller, callee, callee.listen())
    assert callee.accept(caller.public_key).wait_for_end() == []
    assert_joined(near, far)


def test_a_connect_that_gave_up_cannot_be_accepted(relay: RelayProcess, new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    port = near.sock.getsockname()[1]
    near.close()
    relay.wait_for_line(f"^ended 127.0.0.1:{port} .* waiting connect: the peer closed")
    assert callee.accept(caller.public_key).wait_for_end() == []


@pytest.mark.parametrize("garbage", [b"", b"\x00", b"\xff" * 100, b"\x10\x01\x50\x01\x01\x03", bytes(5000)])
def test_an_init_connection_that_is_garbage_ends_only_its_connection(
    new_node: NewNode, garbage: bytes
) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near, far = tunnel(caller, callee, listener)
    bad = callee.open()
    bad.send(garbage)
    assert bad.wait_for_end() == []
    assert_joined(near, far)
    assert_listening(caller, callee, listener)


@pytest.mark.parametrize("role", list(InitRole))
def test_a_second_init_connection_gives_no_second_role(new_node: NewNode, role: InitRole) -> None:
    caller, callee, other = new_node(), new_node(), new_node()
    listener, bystander = callee.listen(), other.listen()
    near, far = tunnel(caller, callee, listener)
    again = encode(InitConnection(role, None if role is InitRole.LISTEN else other.public_key))
    near.send(again)
    assert far.receive() == again
    listener.send(again)
    assert_joined(near, far)
    assert_listening(new_node(), callee, listener)
    assert_listening(new_node(), other, bystander)


def test_the_newest_listener_wins_at_once(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    older = callee.listen()
    near, far = tunnel(caller, callee, older)
    started = time.monotonic()
    newer = callee.listen()
    older.wait_for_end()
    assert time.monotonic() - started < 1.0
    assert_listening(new_node(), callee, newer)
    assert_joined(near, far)


def test_what_waits_for_the_older_listener_is_served_by_the_newer(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    older = callee.listen()
    near = caller.connect(callee.public_key)
    near.send(b"early")
    assert older.incoming() == caller.public_key
    newer = callee.listen()
    assert newer.incoming() == caller.public_key
    far = callee.accept(caller.public_key)
    assert far.receive() == b"early"
    assert_joined(near, far)


def test_the_end_of_a_listener_ends_what_waits_and_not_its_tunnels(new_node: NewNode) -> None:
    caller, late, callee = new_node(), new_node(), new_node()
    listener = callee.listen()
    near, far = tunnel(caller, callee, listener)
    waiting = late.connect(callee.public_key)
    assert listener.incoming() == late.public_key
    listener.close()
    assert waiting.wait_for_end() == []
    assert_joined(near, far)
    assert late.connect(callee.public_key).wait_for_end() == []


def test_garbage_from_a_listener_ends_it_and_what_waits_for_it(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    waiting = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    listener.send(b"\xff" * 9)
    assert listener.wait_for_end() == []
    assert waiting.wait_for_end() == []


def test_keepalives_of_a_released_node_with_all_its_padding_leave_it_listening(new_node: NewNode) -> None:
    callee = new_node(original=True)
    listener = callee.listen()
    for _ in range(20):
        listener.send_keepalive(padding=65_535)
    assert_listening(new_node(), callee, listener)


def test_eight_who_are_silent_after_their_handshake_delay_nobody(new_node: NewNode) -> None:
    silent = new_node()
    for _ in range(8):
        silent.open()
    started = time.monotonic()
    callee = new_node()
    assert_listening(new_node(), callee, callee.listen())
    assert time.monotonic() - started < 1.0


def test_many_who_are_silent_before_and_within_their_handshake_delay_nobody(new_node: NewNode) -> None:
    silent = new_node()
    for stage in range(60):
        peer = silent.dial()
        if stage % 3:
            peer.exchange_versions()
        if stage % 3 == 2:
            peer.send_rand_nonce()
    started = time.monotonic()
    callee = new_node()
    assert_listening(new_node(), callee, callee.listen())
    assert time.monotonic() - started < 1.0


def test_sixteen_pairs_that_come_at_the_same_time_all_meet(new_node: NewNode) -> None:
    pairs = [(new_node(), new_node()) for _ in range(16)]

    def meet(pair: tuple[Node, Node]) -> None:
        caller, callee = pair
        assert_listening(caller, callee, callee.listen())

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(meet, pairs))
