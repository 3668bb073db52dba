"""Handshakes and roles, with test peers that are independent of the package."""

from __future__ import annotations

import random

import pytest

from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce, InitConnection, InitRole
from tests.support.encoding import decode, encode
from tests.support.node import assert_joined, assert_listening, make_tunnel
from tests.support.relay_process import NewNode, both_relays

pytestmark = both_relays


def test_relay_leaves_the_expected_key_empty(new_node: NewNode) -> None:
    peer = new_node().dial()
    peer.exchange_versions()
    peer.send_frame(peer.channel.first_message())
    assert decode(ExchangeRandNonce, peer.receive_frame()).opt_dest_public_key is None


def test_data_after_the_last_handshake_frame_is_kept(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    peer = caller.dial()

    def hold(proof: ExchangeDh) -> ExchangeDh:
        peer.hold()
        return proof

    # The relay's proof doesn't wait for ours, so the keys are known before ours is sent.
    peer.handshake(hold)
    peer.send(encode(InitConnection(InitRole.CONNECT, callee.public_key)))
    peer.send(b"early")
    peer.release()
    assert listener.incoming() == caller.public_key
    assert callee.accept(caller.public_key).receive() == b"early"


def test_connects_can_be_accepted_in_any_order(new_node: NewNode) -> None:
    callee = new_node()
    listener = callee.listen()
    callers = [new_node(released=bool(i % 3)) for i in range(12)]
    ends = {caller.public_key: caller.connect(callee.public_key) for caller in callers}
    announced = [listener.incoming() for _ in callers]
    assert sorted(announced) == sorted(ends)
    random.Random(12).shuffle(announced)
    accepted = {key: callee.accept(key) for key in announced}
    for key, end in ends.items():
        end.send(key)
    for key, end in accepted.items():
        assert end.receive() == key


def test_two_connects_of_one_key_are_both_accepted(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    ends = []
    for _ in range(2):
        ends.append(caller.connect(callee.public_key))
        assert listener.incoming() == caller.public_key  # now this connect is older than the next one
    for end in ends:
        assert_joined(end, callee.accept(caller.public_key))


def test_node_may_connect_to_itself(new_node: NewNode) -> None:
    node = new_node()
    assert_listening(node, node, node.listen())


def test_listener_rejects_only_its_own_connects(new_node: NewNode) -> None:
    caller, callee, stranger = new_node(), new_node(), new_node()
    listener, other = callee.listen(), stranger.listen()
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    other.reject(caller.public_key)
    assert_listening(new_node(), stranger, other)
    assert_joined(near, callee.accept(caller.public_key))


def test_only_the_called_node_can_accept(new_node: NewNode) -> None:
    caller, callee, stranger = new_node(), new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    assert listener.incoming() == caller.public_key
    assert stranger.accept(caller.public_key).messages_until_end() == []
    assert_joined(near, callee.accept(caller.public_key))


@pytest.mark.parametrize("role", list(InitRole))
def test_second_init_changes_no_role(new_node: NewNode, role: InitRole) -> None:
    caller, callee, other = new_node(), new_node(), new_node()
    listener, bystander = callee.listen(), other.listen()
    near, far = make_tunnel(caller, callee, listener)
    again = encode(InitConnection(role, None if role is InitRole.LISTEN else other.public_key))
    near.send(again)
    assert far.receive() == again
    listener.send(again)
    assert_joined(near, far)
    assert_listening(new_node(), callee, listener)
    assert_listening(new_node(), other, bystander)


def test_fully_padded_keepalives_are_accepted(new_node: NewNode) -> None:
    callee = new_node(released=True)
    listener = callee.listen()
    for _ in range(20):
        listener.send_keepalive(padding=65_535)
    assert_listening(new_node(), callee, listener)


def test_silent_peers_delay_nobody(new_node: NewNode) -> None:
    silent = new_node()
    opened = [silent.open() for _ in range(8)]
    for stage in range(60):
        opened.append(silent.dial())
        if stage % 3:
            opened[-1].exchange_versions()
        if stage % 3 == 2:
            opened[-1].send_frame(opened[-1].channel.first_message())
    callee = new_node()
    assert_listening(new_node(), callee, callee.listen())
    # All of them are still connected, so the others were not served after them.
    assert not any(peer.was_closed for peer in opened)


def test_newest_listener_wins(new_node: NewNode) -> None:
    callee = new_node()
    older = callee.listen()
    newer = callee.listen()
    older.wait_for_close()
    assert_listening(new_node(), callee, newer)


def test_a_listener_takes_its_pending_connects_with_it(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near = caller.connect(callee.public_key)
    tunnel = make_tunnel(new_node(), callee, listener) if listener.incoming() == caller.public_key else None
    listener.close()
    assert near.messages_until_end() == []
    assert tunnel is not None
    assert_joined(*tunnel)


def test_a_broken_message_ends_its_connection_only(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    near, far = make_tunnel(caller, callee, listener)
    near.send_frame(bytes(40))
    assert far.messages_until_end() == []
    assert_listening(caller, callee, listener)
