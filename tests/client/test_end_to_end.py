"""The inner channel, between the nodes."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

from offset_common.client import ConnectError, NotAccepted, Step, connect
from offset_common.identity import Identity
from offset_common.wire.messages import KaMessage, Rekey
from tests.support.channel import KeyPair
from tests.support.client import InnerPeer, both_ways, connect_to, refused, start_listening
from tests.support.fault_injection import inject
from tests.support.process import PATIENCE


def test_relay_sees_no_plaintext(relay):
    node, other, seen = Identity.generate(), Identity.generate(), []

    def observer(direction: str, value: object) -> None:
        seen.append((direction, value))

    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        accepting = pool.submit(lambda: listener.receive(PATIENCE).accept(end_to_end=True))
        with (
            connect(relay.ticket, other, node.public_key, end_to_end=True, observer=observer) as connected,
            accepting.result(PATIENCE) as accepted,
        ):
            connected.send(b"for you alone")
            assert accepted.receive(PATIENCE) == b"for you alone"
    assert ("sent end to end", KaMessage(b"for you alone")) in seen
    for direction, value in seen:
        if direction == "sent" and isinstance(value, KaMessage):
            assert b"for you alone" not in (value.message or b"")


def test_inner_channel_interoperates_with_a_test_peer(relay):
    seed, other = os.urandom(32), Identity.generate()
    node = Identity.from_seed(seed)
    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect, relay.ticket, other, node.public_key, end_to_end=True)
        with listener.receive(PATIENCE).accept() as plain:
            inner = InnerPeer(plain, KeyPair(seed), other.public_key)
            while not inner.channel.established:
                inner.receive_any()
            with connecting.result(PATIENCE) as connected:
                connected.send(b"to a node")
                assert inner.receive_any() == b"to a node"
                inner.start_rekey()
                inner.send(b"under old keys")
                assert connected.receive(PATIENCE) == b"under old keys"
                connected.send(b"under new keys")
                assert inner.receive_any() is None and not inner.channel.rekey_pending
                assert inner.receive_any() == b"under new keys"


@both_ways
def test_rekeys_change_no_messages(start_relay, monkeypatch, end_to_end):
    relay = start_relay(prefix=inject("offset_common.channel.secure_channel:MAX_REKEYS_IN_WINDOW=1000"))
    seen: list[object] = []
    node = Identity.generate()
    monkeypatch.setattr("offset_common.channel.secure_channel.REKEY_INTERVAL", 0.15)
    monkeypatch.setattr("offset_common.channel.secure_channel.MAX_REKEYS_IN_WINDOW", 1000)
    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(
            connect,
            relay.ticket,
            Identity.generate(),
            node.public_key,
            end_to_end=end_to_end,
            observer=lambda direction, value: seen.append((direction, type(getattr(value, "content", None)))),
        )
        with listener.receive(PATIENCE).accept(end_to_end=end_to_end) as accepted:
            connected = connecting.result(PATIENCE)
            layer = "received end to end" if end_to_end else "received"
            number = 0
            while seen.count((layer, Rekey)) < 3:
                connected.send(b"%d" % number)
                accepted.send(b"%d" % number)
                assert accepted.receive(PATIENCE) == connected.receive(PATIENCE) == b"%d" % number
                number += 1
            connected.close()


def test_impostor_that_accepts_is_rejected(relay):
    node = Identity.generate()
    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect, relay.ticket, Identity.generate(), node.public_key, end_to_end=True)
        with listener.receive(PATIENCE).accept() as plain:
            InnerPeer(plain, KeyPair())
            with refused(ConnectError, Step.END_TO_END, r"did not prove its key: .*not the expected one"):
                connecting.result(PATIENCE)


def test_impostor_that_connects_is_rejected(relay):
    node = Identity.generate()
    with start_listening(relay, node) as listener, connect_to(relay, node) as plain:
        InnerPeer(plain, KeyPair())
        with refused(ConnectError, Step.END_TO_END, "not the expected one"):
            listener.receive(PATIENCE).accept(end_to_end=True)


def test_node_without_inner_channel_is_rejected(relay):
    node = Identity.generate()
    with start_listening(relay, node) as listener, connect_to(relay, node) as plain:
        plain.send(b"hello")
        with refused(ConnectError, Step.END_TO_END, "did not prove its key"):
            listener.receive(PATIENCE).accept(end_to_end=True)


def test_accept_timeout_is_kept(relay):
    node = Identity.generate()
    with start_listening(relay, node), refused(NotAccepted, Step.END_TO_END, r"within 0\.1 s"):
        connect(relay.ticket, Identity.generate(), node.public_key, end_to_end=True, accept_timeout=0.1)
