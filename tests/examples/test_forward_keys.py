"""examples/forward.py: who has no right to a connection gets none."""

from __future__ import annotations

import pytest

from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.client import Tunnel, connect, listen
from offset_common.errors import ConnectionEnded
from offset_common.identity import Identity, encode_key
from tests.examples.programs import PATIENCE, Setting, echo, exchange, reach, server, wait_for_reset


def test_a_key_that_is_not_allowed_is_refused_and_named(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target, allow=Identity.generate())
        dialing, port = setting.dial("--wait", "1")
        with reach(port) as sock:
            wait_for_reset(sock)
        serving.wait_for(f"^rejected: {encode_key(setting.laptop.public_key)} is not allowed$")
        dialing.wait_for("connection 1: failed: .*rejected the connect")
    assert reached == []


def test_refusals_do_not_fill_the_log(setting: Setting) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        for _ in range(25):
            stranger = connect(setting.ticket, Identity.generate(), setting.home.public_key)
            with stranger, pytest.raises(ConnectionEnded):
                stranger.receive(PATIENCE)
        port = setting.dial()[1]
        with reach(port) as sock:
            assert exchange(sock, b"after all of them") == b"after all of them"
        assert len([line for line in serving.lines if line.startswith("rejected: ")]) == 10


def test_who_is_the_peer_by_the_relays_word_alone_gets_nothing(setting: Setting) -> None:
    """A listener with the peer's key, as the relay could pretend, that cannot prove it end to end."""
    with listen(setting.ticket, setting.home) as listener:
        dialing, port = setting.dial("--wait", "20")
        with reach(port) as sock:
            sock.sendall(b"secret")
            with listener.receive(PATIENCE).accept() as plain:
                impostor_says(plain, Identity.generate())
                wait_for_reset(sock)
        dialing.wait_for("connection 1: failed: the other node did not prove its key: .*another identity")


def test_a_caller_that_does_not_prove_its_key_end_to_end_does_not_reach_the_server(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target)
        with connect(setting.ticket, setting.laptop, setting.home.public_key) as plain:
            impostor_says(plain, Identity.generate())
            serving.wait_for("connection 1: failed: the other node did not prove its key: .*another id")
    assert reached == []


def impostor_says(plain: Tunnel, identity: Identity) -> None:
    """Begin the handshake between nodes, with another key than the relay has announced."""
    channel = KeepaliveChannel(identity, 0.0, None)
    for payload in channel.outgoing:
        plain.send(payload)
