"""A connection's thread: a relay that misbehaves, keepalives, new keys."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.channel import keepalive
from offset_common.client import connect, driver, listen
from offset_common.errors import ConnectionLost, DecryptionError, SilenceError
from offset_common.identity import Identity
from offset_common.wire.frames import encode_frame
from offset_common.wire.messages import KaMessage
from tests.client.relays import (
    PATIENCE,
    FakeRelay,
    both_ways,
    connect_to,
    fake_relay,
    threads,
    wait_for_end,
    wait_until,
)


def test_a_message_that_is_cut_off_is_a_lost_connection():
    def serve(relay: FakeRelay) -> None:
        relay.connection.send(b"whole", 0.0)
        relay.connection.send(b"cut off", 0.0)
        relay.sock.sendall(relay.connection.data_to_send()[:-1])

    with fake_relay(serve) as ticket, connect(ticket, Identity.generate(), bytes(32)) as tunnel:
        assert tunnel.receive(PATIENCE) == b"whole"
        with pytest.raises(ConnectionLost, match="cut off within a message"):
            list(tunnel)


def test_what_came_before_a_broken_message_is_still_received():
    def serve(relay: FakeRelay) -> None:
        relay.connection.send(b"whole", 0.0)
        relay.sock.sendall(relay.connection.data_to_send() + encode_frame(bytes(50)))
        wait_for_end(relay.sock)

    with fake_relay(serve) as ticket, connect(ticket, Identity.generate(), bytes(32)) as tunnel:
        wait_until(lambda: threads() == 0)
        assert tunnel.receive(PATIENCE) == b"whole"
        with pytest.raises(DecryptionError):
            tunnel.receive(PATIENCE)
        with pytest.raises(DecryptionError):
            tunnel.send(b"")


def test_a_relay_that_falls_silent_ends_the_connection(monkeypatch):
    monkeypatch.setattr(keepalive, "IDLE_TIMEOUT", 0.2)
    with fake_relay(lambda relay: wait_for_end(relay.sock)) as ticket, pytest.raises(SilenceError):
        listen(ticket, Identity.generate()).receive(PATIENCE)


@both_ways
def test_keepalives_go_on_while_nobody_reads(running, monkeypatch, end_to_end):
    monkeypatch.setattr(keepalive, "IDLE_TIMEOUT", 0.8)
    monkeypatch.setattr(keepalive, "KEEPALIVE_INTERVAL", 0.2)
    monkeypatch.setattr(driver, "QUEUE_SIZE", 1000)
    counts: dict[str, int] = {}

    def observer(direction: str, value: object) -> None:
        if value == KaMessage(None):
            counts[direction] = counts.get(direction, 0) + 1

    node = Identity.generate()
    with running.listen(node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(
            connect, running.ticket, Identity.generate(), node.public_key, end_to_end=end_to_end
        )
        with listener.receive(PATIENCE).accept(end_to_end=end_to_end, observer=observer) as accepted:
            connected = connecting.result(PATIENCE)
            messages = [b"%d" % number + bytes(400) for number in range(10)]
            for message in messages:
                connected.send(message)
            # More keepalives than fit into the time after which a silent peer is given up.
            sent = "sent end to end" if end_to_end else "sent"
            wait_until(lambda: counts.get(sent, 0) >= 7)
            accepted.send(b"both sides are alive")
            assert connected.receive(PATIENCE) == b"both sides are alive"
            assert [accepted.receive(PATIENCE) for _ in messages] == messages
            connected.close()
        # The listener, too, was left alone all the time.
        again = connect_to(running, node)
        listener.receive(PATIENCE).reject()
        again.close()
