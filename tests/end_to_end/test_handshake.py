"""From the TCP connection to the proven peer."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce, InitConnection, InitRole
from tests.support.channel import WrongAnswer
from tests.support.encoding import VERSION_FRAME, decode, encode, frame
from tests.support.peer import Ended
from tests.support.relay_log import Reason
from tests.support.relay_process import NewNode, RelayProcess

PROOF = ["dh_public_key", "rand_nonce", "key_salt", "signature"]
GARBAGE = {
    "http": (b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", "HTTP request"),
    "tls": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "TLS"),
    "a client of SOCKS that waits": (b"\x05\x01\x00", "SOCKS"),
    "a line of text": (b"hi\r\n", "plain text"),
    "another version": (frame(struct.pack(">I", 1)), "protocol version 1"),
    "a short version": (frame(bytes(3)), "a version of 3 bytes"),
    "an empty version": (frame(b""), "a version of 0 bytes"),
    "a long version": (frame(bytes(5)), Reason.NOT_OFFSET),
    "a peer up to 0.1.2": (struct.pack(">I", 4) + bytes(4), Reason.OLD_PEER),
    "a huge frame": (VERSION_FRAME + struct.pack(">Q", 2**40), "at most 2048"),
    "no ExchangeRandNonce": (VERSION_FRAME + frame(b"\xee" * 40), ""),
}


@pytest.mark.parametrize("released", [False, True])
def test_both_sides_prove_their_keys(new_node: NewNode, released: bool) -> None:
    node = new_node(released)
    assert node.open().channel.peer_key == node.relay.public_key


def test_relay_sends_its_version_first(new_node: NewNode) -> None:
    assert new_node().dial().receive_frame() == bytes(4)


def test_relay_leaves_the_expected_key_empty(new_node: NewNode) -> None:
    peer = new_node().dial()
    peer.exchange_versions()
    peer.send_frame(peer.channel.first_message())
    assert decode(ExchangeRandNonce, peer.receive_frame()).opt_dest_public_key is None


def test_peer_may_expect_no_particular_key(new_node: NewNode) -> None:
    node = new_node()
    assert node.dial(expected=None).handshake().channel.peer_key == node.relay.public_key


@pytest.mark.parametrize(("data", "reason"), GARBAGE.values(), ids=list(GARBAGE))
def test_garbage_is_closed_and_logged(
    relay: RelayProcess, new_node: NewNode, data: bytes, reason: str
) -> None:
    peer = new_node().dial()
    peer.send_bytes(data)
    peer.wait_for_close()
    relay.wait_for_end(peer.port, reason=reason)


def test_handshake_may_arrive_byte_by_byte(new_node: NewNode) -> None:
    peer = new_node().dial()
    for byte in VERSION_FRAME + frame(peer.channel.first_message()):
        peer.send_bytes(bytes([byte]))
    assert peer.receive_frame() == bytes(4)
    decode(ExchangeRandNonce, peer.receive_frame())
    decode(ExchangeDh, peer.receive_frame())


@pytest.mark.parametrize("field", PROOF)
def test_proof_with_a_flipped_bit_is_rejected(relay: RelayProcess, new_node: NewNode, field: str) -> None:
    def spoil(proof: ExchangeDh) -> ExchangeDh:
        fields = {name: getattr(proof, name) for name in PROOF}
        fields[field] = bytes([fields[field][0] ^ 1]) + fields[field][1:]
        return ExchangeDh(**fields)

    peer = new_node().dial()
    with suppress(Ended, WrongAnswer):  # the relay may send its own proof before it checks ours
        peer.handshake(spoil)
        peer.init(InitRole.LISTEN)
    peer.wait_for_close()
    relay.wait_for_end(peer.port, reason=Reason.HANDSHAKE_FAILED)


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


def test_data_behind_the_last_handshake_frame_is_kept(new_node: NewNode) -> None:
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
