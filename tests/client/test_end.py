"""How connections end, in order and otherwise."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from offset_common.address import Address
from offset_common.client import Incoming, Listener, Step, Tunnel, accept, connect, listen
from offset_common.errors import ConnectionEnded
from offset_common.identity import Identity, save_identity
from offset_common.tickets import RelayTicket
from tests.client.relays import (
    LOCALHOST,
    NUMBER_SIZE,
    PATIENCE,
    both_ways,
    connect_to,
    descriptors,
    fill,
    refused,
    threads,
    tunnel_pair,
    wait_until,
)

STRELAY = Path(__file__).parent.parent.parent / "strelay.py"


@both_ways
def test_closing_delivers_what_was_sent_and_ends_the_other_side(running, end_to_end):
    messages = [os.urandom(700_000) for _ in range(4)] + [b"last words"]
    with tunnel_pair(running, end_to_end) as (connected, accepted), ThreadPoolExecutor() as pool:
        received = pool.submit(lambda: list(accepted))
        for message in messages:
            connected.send(message)
        connected.close()
        assert received.result(PATIENCE) == messages
        with pytest.raises(ConnectionEnded, match="closed the tunnel"):
            accepted.receive(PATIENCE)
        with pytest.raises(ConnectionEnded, match="closed the tunnel"):
            accepted.send(b"too late")


def test_closing_delivers_to_a_node_that_reads_long_after(running):
    with tunnel_pair(running) as (connected, accepted):
        sent = fill(connected)
        connected.close(timeout=0.1)
        assert [message[:NUMBER_SIZE] for message in accepted] == sent


def test_a_closed_tunnel_can_be_neither_read_nor_written(running):
    with tunnel_pair(running) as (connected, accepted):
        accepted.send(b"never read")
        connected.close()
        connected.close()
        with pytest.raises(ConnectionEnded, match="closed on this side"):
            connected.receive()
        with pytest.raises(ConnectionEnded, match="closed on this side"):
            connected.send(b"")


def test_closing_wakes_a_thread_that_receives(running):
    with tunnel_pair(running) as (connected, _), ThreadPoolExecutor() as pool:
        receiving = pool.submit(lambda: list(connected))
        connected.close()
        assert receiving.result(PATIENCE) == []


def test_a_closed_tunnel_gives_back_its_thread_and_its_descriptors(running):
    threads_before, descriptors_before = threads(), descriptors()
    with tunnel_pair(running) as (connected, accepted):
        connected.send(b"hello")
        assert accepted.receive(PATIENCE) == b"hello"
        assert threads() == threads_before + 3
    wait_until(lambda: threads() == threads_before)
    wait_until(lambda: descriptors() <= descriptors_before)


def test_a_rejected_connect_ends(running):
    node = Identity.generate()
    with running.listen(node) as listener, connect_to(running, node) as connected:
        connected.send(b"nobody reads this")
        listener.receive(PATIENCE).reject()
        with refused(Step.CONNECT, "rejected the connect"):
            connected.receive(PATIENCE)
        with refused(Step.CONNECT, "rejected the connect"):
            list(connected)


@both_ways
def test_a_connect_to_nobody_ends_with_a_clear_error(running, end_to_end):
    nobody = Identity.generate().public_key
    with refused(Step.CONNECT, "does not listen here"):
        connect(running.ticket, Identity.generate(), nobody, end_to_end=end_to_end).receive(PATIENCE)


@both_ways
def test_an_accept_of_nobody_ends_with_a_clear_error(running, end_to_end):
    nobody = Identity.generate().public_key
    with pytest.raises(ConnectionEnded, match="its connect is no longer pending"):
        accept(running.ticket, Identity.generate(), nobody, end_to_end=end_to_end).receive(PATIENCE)


def test_a_relay_that_dies_ends_listeners_and_tunnels_promptly(tmp_path):
    identity, node = Identity.generate(), Identity.generate()
    save_identity(identity, tmp_path / "relay.ident")
    arguments = [sys.executable, str(STRELAY), "-i", str(tmp_path / "relay.ident"), "-l", f"{LOCALHOST}:0"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            ready = process.stderr.readline()
            port = int(ready.partition(f"{LOCALHOST}:")[2].partition(",")[0])
            ticket = RelayTicket(identity.public_key, Address(LOCALHOST, port))
            listener = listen(ticket, node)
            connected, incoming = connect_when_possible(ticket, node, listener)
            accepted = incoming.accept()
            connected.send(b"hello")
            assert accepted.receive(PATIENCE) == b"hello"
        finally:
            process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        for each in (accepted, listener):
            with pytest.raises(ConnectionEnded):
                each.receive(PATIENCE)
        with pytest.raises(ConnectionEnded):
            while True:
                connected.send(bytes(1000))
        assert time.monotonic() - began < 2.0


def connect_when_possible(ticket: RelayTicket, node: Identity, listener: Listener) -> tuple[Tunnel, Incoming]:
    """Connect as often as it takes until the relay knows the listener."""
    while True:
        connected = connect(ticket, Identity.generate(), node.public_key)
        with contextlib.suppress(TimeoutError):
            return connected, listener.receive(0.2)
        connected.close()
