"""How connections end, in an orderly way or not."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.client import ConnectRefused, NotAccepted, Step, accept, connect, tunnel
from offset_common.client.tunnel import explain_not_joined
from offset_common.constants import PENDING_CONNECT_TIMEOUT
from offset_common.errors import ConnectionEnded
from offset_common.identity import Identity
from offset_common.wire.messages import InitRole
from tests.support.client import (
    NUMBER_SIZE,
    both_ways,
    connect_to,
    fake_relay,
    fill,
    refused,
    start_listening,
    tunnel_pair,
)
from tests.support.process import PATIENCE


@both_ways
def test_close_delivers_messages_and_ends_the_tunnel(relay, end_to_end):
    messages = [os.urandom(700_000) for _ in range(4)] + [b"last words"]
    with tunnel_pair(relay, end_to_end) as (connected, accepted), ThreadPoolExecutor() as pool:
        received = pool.submit(lambda: list(accepted))
        for message in messages:
            connected.send(message)
        connected.close()
        assert received.result(PATIENCE) == messages
        with pytest.raises(ConnectionEnded, match="closed the tunnel"):
            accepted.receive(PATIENCE)
        with pytest.raises(ConnectionEnded, match="closed the tunnel"):
            accepted.send(b"too late")


def test_close_delivers_to_a_late_reader(relay):
    with tunnel_pair(relay) as (connected, accepted):
        sent = fill(connected)
        connected.close(timeout=0.1)
        assert [message[:NUMBER_SIZE] for message in accepted] == sent


def test_closed_tunnel_rejects_use(relay):
    with tunnel_pair(relay) as (connected, accepted):
        accepted.send(b"never read")
        connected.close()
        connected.close()
        with pytest.raises(ConnectionEnded, match="closed on this side"):
            connected.receive()
        with pytest.raises(ConnectionEnded, match="closed on this side"):
            connected.send(b"")


def test_close_wakes_a_receiving_thread(relay):
    with tunnel_pair(relay) as (connected, _), ThreadPoolExecutor() as pool:
        receiving = pool.submit(lambda: list(connected))
        connected.close()
        assert receiving.result(PATIENCE) == []


def test_rejected_connect_ends(relay):
    node = Identity.generate()
    with start_listening(relay, node) as listener, connect_to(relay, node) as connected:
        connected.send(b"nobody reads this")
        listener.receive(PATIENCE).reject()
        with refused(ConnectRefused, Step.CONNECT, "rejected the connect"):
            connected.receive(PATIENCE)
        with refused(ConnectRefused, Step.CONNECT, "rejected the connect"):
            list(connected)


@both_ways
def test_connect_to_nobody_is_reported(relay, end_to_end):
    nobody = Identity.generate().public_key
    with refused(ConnectRefused, Step.CONNECT, "does not listen here"):
        connect(relay.ticket, Identity.generate(), nobody, end_to_end=end_to_end).receive(PATIENCE)


@both_ways
def test_connect_that_the_relay_ends_late_is_not_accepted(monkeypatch, end_to_end):
    monkeypatch.setattr(tunnel, "NOT_ACCEPTED_MARGIN", PENDING_CONNECT_TIMEOUT)  # every end is late
    with fake_relay(lambda _: None) as ticket, refused(NotAccepted, Step.CONNECT, "did not accept"):
        nobody = Identity.generate().public_key
        connect(ticket, Identity.generate(), nobody, end_to_end=end_to_end).receive(PATIENCE)


@pytest.mark.parametrize(
    ("age", "kind"), [(1.0, ConnectRefused), (PENDING_CONNECT_TIMEOUT - 1.0, NotAccepted)]
)
def test_age_of_a_closed_connect_tells_the_reason(age, kind):
    assert type(explain_not_joined(InitRole.CONNECT, False, age)) is kind


@both_ways
def test_accept_of_nobody_is_reported(relay, end_to_end):
    nobody = Identity.generate().public_key
    with pytest.raises(ConnectionEnded, match="its connect is no longer pending"):
        accept(relay.ticket, Identity.generate(), nobody, end_to_end=end_to_end).receive(PATIENCE)


def test_dead_relay_ends_listeners_and_tunnels(start_relay):
    relay = start_relay()
    node = Identity.generate()
    with (
        start_listening(relay, node) as listener,
        connect_to(relay, node) as connected,
        listener.receive(PATIENCE).accept() as accepted,
    ):
        connected.send(b"hello")
        assert accepted.receive(PATIENCE) == b"hello"
        relay.stop(signal.SIGKILL)
        for each in (accepted, listener):
            with pytest.raises(ConnectionEnded):
                each.receive(PATIENCE)
        with pytest.raises(ConnectionEnded):
            while True:
                connected.send(bytes(1000), timeout=PATIENCE)
