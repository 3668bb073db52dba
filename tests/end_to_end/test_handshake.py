"""From the TCP connection to the proven peer, against a relay's process."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from offset_common.wire.messages import ExchangeDh, ExchangeRandNonce, InitConnection, InitRole
from tests.end_to_end.conftest import NewNode
from tests.end_to_end.peer import Ended, decode, encode
from tests.end_to_end.relay_process import RelayProcess

PROOF = ["dh_public_key", "rand_nonce", "key_salt", "signature"]
GARBAGE = [
    pytest.param(b"GET / HTTP/1.1\r\nHost: relay\r\n\r\n", "not an Offset peer", id="http"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "not an Offset peer", id="tls"),
    pytest.param(struct.pack(">Q", 4) + struct.pack(">I", 1), "protocol version 1", id="another version"),
    pytest.param(struct.pack(">Q", 3) + bytes(3), "a version of 3 bytes", id="a short version"),
    pytest.param(struct.pack(">Q", 0), "a version of 0 bytes", id="an empty version"),
    pytest.param(struct.pack(">Q", 5) + bytes(5), "not an Offset peer", id="a long version"),
    pytest.param(struct.pack(">I", 4) + bytes(4), "peer older than 0.1.3", id="a peer up to 0.1.2"),
    pytest.param(
        struct.pack(">Q", 4) + bytes(4) + struct.pack(">Q", 2**40), "at most 2048", id="a huge frame"
    ),
    pytest.param(
        struct.pack(">Q", 4) + bytes(4) + struct.pack(">Q", 40) + b"\xee" * 40,
        "ended",
        id="no ExchangeRandNonce",
    ),
]


@pytest.mark.parametrize("original", [False, True])
def test_a_peer_is_admitted_once_both_sides_are_proven(new_node: NewNode, original: bool) -> None:
    node = new_node(original)
    peer = node.open()
    assert peer.relay_key == node.relay.public_key


def test_the_relay_speaks_first_without_waiting_for_the_peer(new_node: NewNode) -> None:
    assert new_node().dial().receive_frame() == bytes(4)


def test_a_peer_that_expects_nobody_in_particular_is_admitted(new_node: NewNode) -> None:
    node = new_node()
    peer = node.dial().handshake(expected=None)
    assert peer.relay_key == node.relay.public_key


@pytest.mark.parametrize(("data", "reason"), GARBAGE)
def test_what_is_not_offset_is_closed_with_its_reason_in_the_log(
    relay: RelayProcess, new_node: NewNode, data: bytes, reason: str
) -> None:
    peer = new_node().dial()
    port = peer.sock.getsockname()[1]
    peer.send_bytes(data)
    peer.bytes_until_end()
    assert reason in relay.wait_for_line(f"^ended 127.0.0.1:{port} ")


def test_a_handshake_that_comes_byte_by_byte_is_taken(new_node: NewNode) -> None:
    peer = new_node().dial()
    for byte in struct.pack(">Q", 4) + bytes(4):
        peer.send_bytes(bytes([byte]))
    assert peer.receive_frame() == bytes(4)
    peer.send_rand_nonce()
    decode(ExchangeRandNonce, peer.receive_frame())
    decode(ExchangeDh, peer.receive_frame())


@pytest.mark.parametrize("field", PROOF)
def test_a_proof_with_one_bit_flipped_is_refused(relay: RelayProcess, new_node: NewNode, field: str) -> None:
    def spoil(proof: ExchangeDh) -> ExchangeDh:
        fields = {name: getattr(proof, name) for name in PROOF}
        value = fields[field]
        fields[field] = bytes([value[0] ^ 1]) + value[1:]
        return ExchangeDh(**fields)

    peer = new_node().dial()
    port = peer.sock.getsockname()[1]
    with suppress(Ended):  # the relay need not prove itself to who did not
        peer.handshake(spoil=spoil)
    peer.bytes_until_end()
    assert "the handshake failed" in relay.wait_for_line(f"^ended 127.0.0.1:{port} ")


def test_a_proof_recorded_from_another_connection_is_refused(relay: RelayProcess, new_node: NewNode) -> None:
    recorded: list[ExchangeDh] = []

    def record(proof: ExchangeDh) -> ExchangeDh:
        recorded.append(proof)
        return proof

    node = new_node()
    node.dial().handshake(spoil=record)
    thief = node.dial()
    port = thief.sock.getsockname()[1]
    with suppress(Ended):
        thief.handshake(spoil=lambda _: recorded[0])
    thief.bytes_until_end()
    assert "another challenge" in relay.wait_for_line(f"^ended 127.0.0.1:{port} ")


def test_what_comes_in_one_piece_with_the_last_handshake_frame_is_not_lost(new_node: NewNode) -> None:
    caller, callee = new_node(), new_node()
    listener = callee.listen()
    peer = caller.dial()

    def hold(proof: ExchangeDh) -> ExchangeDh:
        peer.hold()
        return proof

    peer.handshake(spoil=hold)
    peer.send(encode(InitConnection(InitRole.CONNECT, callee.public_key)))
    peer.send(b"early")
    peer.release()
    assert listener.incoming() == caller.public_key
    assert callee.accept(caller.public_key).receive() == b"early"
