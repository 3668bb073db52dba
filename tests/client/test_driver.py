"""The thread of a connection: misbehaving relays and keepalives."""

from __future__ import annotations

import errno
import os
import selectors
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.channel import keepalive
from offset_common.client import connect, dial, driver, listen, start_listener
from offset_common.errors import ConnectionLost, DecryptionError, SilenceError
from offset_common.identity import Identity
from offset_common.wire.messages import KaMessage
from tests.support.client import (
    both_ways,
    client_threads,
    connect_to,
    fake_relay,
    start_listening,
    wait_for_end,
)
from tests.support.fault_injection import inject
from tests.support.peer import Peer
from tests.support.process import PATIENCE, wait_until


def test_truncated_message_is_a_lost_connection():
    def serve(relay: Peer) -> None:
        relay.send(b"whole")
        relay.hold()
        relay.send(b"cut off")
        relay.send_bytes(relay.take_held()[:-1])

    with fake_relay(serve) as ticket, connect(ticket, Identity.generate(), bytes(32)) as tunnel:
        assert tunnel.receive(PATIENCE) == b"whole"
        with pytest.raises(ConnectionLost, match="cut off within a message"):
            list(tunnel)


def test_messages_before_a_broken_one_are_received():
    def serve(relay: Peer) -> None:
        relay.send(b"whole")
        relay.send_frame(bytes(50))
        wait_for_end(relay.sock)

    with fake_relay(serve) as ticket, connect(ticket, Identity.generate(), bytes(32)) as tunnel:
        wait_until(lambda: client_threads() == 0)
        assert tunnel.receive(PATIENCE) == b"whole"
        with pytest.raises(DecryptionError):
            tunnel.receive(PATIENCE)
        with pytest.raises(DecryptionError):
            tunnel.send(b"")


def test_silent_relay_ends_the_connection(monkeypatch):
    monkeypatch.setattr(keepalive, "IDLE_TIMEOUT", 1.0)
    with fake_relay(lambda relay: wait_for_end(relay.sock)) as ticket, pytest.raises(SilenceError):
        listen(ticket, Identity.generate()).receive(PATIENCE)


def test_lack_of_descriptors_leaves_nothing_open(relay, monkeypatch):
    def fail() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    dialing = dial(relay.ticket, Identity.generate())
    monkeypatch.setattr(selectors, "DefaultSelector", fail)
    with pytest.raises(OSError, match="Too many open files"):
        start_listener(dialing)
    assert dialing.sock.fileno() == -1


@both_ways
def test_keepalives_go_on_while_nobody_reads(start_relay, monkeypatch, end_to_end):
    module = "offset_common.channel.keepalive"
    times = (f"{module}:IDLE_TIMEOUT=4.0", f"{module}:KEEPALIVE_INTERVAL=0.25")
    coarse = [f"offset_common.relay.{module}:COARSE_INTERVAL=0.1" for module in ("event_loop", "connection")]
    relay = start_relay(prefix=inject(*times, *coarse))
    monkeypatch.setattr(keepalive, "IDLE_TIMEOUT", 4.0)
    monkeypatch.setattr(keepalive, "KEEPALIVE_INTERVAL", 0.25)
    monkeypatch.setattr(driver, "QUEUE_SIZE", 1000)
    counts: dict[str, int] = {}

    def observer(direction: str, value: object) -> None:
        if value == KaMessage(None):
            counts[direction] = counts.get(direction, 0) + 1

    node = Identity.generate()
    with start_listening(relay, node) as listener, ThreadPoolExecutor() as pool:
        connecting = pool.submit(
            connect, relay.ticket, Identity.generate(), node.public_key, end_to_end=end_to_end
        )
        with listener.receive(PATIENCE).accept(end_to_end=end_to_end, observer=observer) as accepted:
            connected = connecting.result(PATIENCE)
            messages = [b"%d" % number + bytes(400) for number in range(10)]
            for message in messages:
                connected.send(message)
            # Sending these keepalives takes longer than the idle timeout.
            sent = "sent end to end" if end_to_end else "sent"
            wait_until(lambda: counts.get(sent, 0) >= 18)
            accepted.send(b"both sides are alive")
            assert connected.receive(PATIENCE) == b"both sides are alive"
            assert [accepted.receive(PATIENCE) for _ in messages] == messages
            connected.close()
        # The listener was idle for as long, and still works.
        again = connect_to(relay, node)
        listener.receive(PATIENCE).reject()
        again.close()
