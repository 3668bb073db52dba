"""From the TCP connection to the proven peer."""

from __future__ import annotations

from contextlib import suppress

import pytest

from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce, InitConnection, InitRole
from tests.support.encoding import decode, encode
from tests.support.peer import Ended
from tests.support.relay_log import Reason
from tests.support.relay_process import NewNode, RelayProcess


@pytest.mark.parametrize("released", [False, True])
def test_both_sides_prove_their_keys(new_node: NewNode, released: bool) -> None:
    node = new_node(released)
    assert node.open().channel.peer_key == node.relay.public_key


def test_relay_leaves_the_expected_key_empty(new_node: NewNode) -> None:
    peer = new_node().dial()
    peer.exchange_versions()
    peer.send_frame(peer.channel.first_message())
    assert decode(ExchangeRandNonce, peer.receive_frame()).opt_dest_public_key is None


def test_peer_may_expect_no_particular_key(new_node: NewNode) -> None:
    node = new_node()
    assert node.dial(expected=None).handshake().channel.peer_key == node.relay.public_key


def test_replayed_proof_is_rejected(relay: RelayProcess, new_node: NewNode) -> None:
    recorded: list[ExchangeDh] = []

    def record(proof: ExchangeDh) -> ExchangeDh:
        recorded.append(proof)
        return proof

    node = new_node()
    node.open()
    node.dial().handshake(record)
    thief = node.dial()
    with suppress(Ended):
        thief.handshake(lambda _: recorded[0])
    thief.wait_for_close()
    relay.wait_for_end(thief.port, reason=Reason.HANDSHAKE_FAILED)


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


def test_relay_logged_no_bug(relay: RelayProcess, new_node: NewNode) -> None:
    new_node().open()
    assert relay.failures == []
