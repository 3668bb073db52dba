"""The second channel, between the nodes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Optional

from offset_common.channel.events import HandshakeCompleted, MessageReceived
from offset_common.channel.keepalive import KeepaliveChannel
from offset_common.client import Step, Tunnel, connect
from offset_common.identity import Identity
from offset_common.wire.messages import KaMessage, Rekey
from tests.client.relays import PATIENCE, both_ways, connect_to, refused


def test_end_to_end_the_relay_sees_nothing_of_the_messages(running):
    node, other, seen = Identity.generate(), Identity.generate(), []

    def observer(direction: str, value: object) -> None:
        seen.append((direction, value))

    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        accepting = pool.submit(lambda: listener.receive(PATIENCE).accept(end_to_end=True))
        with (
            connect(running.ticket, other, node.public_key, end_to_end=True, observer=observer) as connected,
            accepting.result(PATIENCE) as accepted,
        ):
            connected.send(b"for you alone")
            assert accepted.receive(PATIENCE) == b"for you alone"
    assert ("sent end to end", KaMessage(b"for you alone")) in seen
    for direction, value in seen:
        if direction == "sent" and isinstance(value, KaMessage):
            assert b"for you alone" not in (value.message or b"")


class NodeByHand:
    """The end-to-end channel over a tunnel of the plain kind, step by step."""

    def __init__(self, tunnel: Tunnel, identity: Identity, expected_peer: Optional[bytes] = None) -> None:
        self.tunnel = tunnel
        self.channel = KeepaliveChannel(identity, 0.0, expected_peer)
        self.flush()

    def flush(self) -> None:
        for payload in self.channel.outgoing:
            self.tunnel.send(payload)
        self.channel.outgoing.clear()

    def event(self) -> object:
        while True:
            event = self.channel.receive_payload(self.tunnel.receive(PATIENCE), 0.0)
            self.flush()
            if event is not None:
                return event


def test_the_channel_end_to_end_is_a_secure_channel_over_the_tunnels_messages(running):
    node, other = Identity.generate(), Identity.generate()
    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(connect, running.ticket, other, node.public_key, end_to_end=True)
        with listener.receive(PATIENCE).accept() as plain:
            by_hand = NodeByHand(plain, node, other.public_key)
            assert by_hand.event() == HandshakeCompleted(other.public_key)
            with connecting.result(PATIENCE) as connected:
                connected.send(b"to a node")
                assert by_hand.event() == MessageReceived(b"to a node")
                by_hand.channel.secure_channel.start_rekey(0.0)
                by_hand.channel.send(b"under old keys", 0.0)
                by_hand.flush()
                assert connected.receive(PATIENCE) == b"under old keys"
                connected.send(b"under new keys")
                assert by_hand.event() == MessageReceived(b"under new keys")
                assert not by_hand.channel.secure_channel.rekey_pending


@both_ways
def test_new_keys_change_nothing_for_the_messages(running, monkeypatch, end_to_end):
    seen: list[object] = []
    node = Identity.generate()
    monkeypatch.setattr("offset_common.channel.secure_channel.REKEY_INTERVAL", 0.15)
    monkeypatch.setattr("offset_common.channel.secure_channel.MAX_REKEYS_IN_WINDOW", 1000)
    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(
            connect,
            running.ticket,
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


def test_an_impostor_end_to_end_is_refused(running):
    node = Identity.generate()
    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(
            connect, running.ticket, Identity.generate(), node.public_key, end_to_end=True
        )
        with listener.receive(PATIENCE).accept() as plain:
            NodeByHand(plain, Identity.generate())
            with refused(Step.END_TO_END, r"did not prove its key: .*another identity"):
                connecting.result(PATIENCE)


def test_an_impostor_that_connects_is_refused_by_the_acceptor(running):
    node = Identity.generate()
    with running.listen(node) as listener, connect_to(running, node) as plain:
        NodeByHand(plain, Identity.generate())
        with refused(Step.END_TO_END, "another identity"):
            listener.receive(PATIENCE).accept(end_to_end=True)


def test_a_node_that_is_not_end_to_end_is_refused(running):
    node = Identity.generate()
    with running.listen(node) as listener, connect_to(running, node) as plain:
        plain.send(b"hello")
        with refused(Step.END_TO_END, "did not prove its key"):
            listener.receive(PATIENCE).accept(end_to_end=True)


def test_end_to_end_the_accept_is_waited_for_as_long_as_is_asked_for(running):
    node = Identity.generate()
    with running.listen(node), refused(Step.END_TO_END, r"within 0\.1 s"):
        connect(running.ticket, Identity.generate(), node.public_key, end_to_end=True, accept_timeout=0.1)
