"""Messages through a tunnel: unchanged, in order, both ways at once."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from offset_common.constants import MAX_MESSAGE_SIZE
from offset_common.errors import LocalProtocolError
from tests.support.client import NUMBER_SIZE, both_ways, fill, send_all, tunnel_pair
from tests.support.process import PATIENCE


@both_ways
def test_every_size_arrives_unchanged_both_ways(relay, end_to_end):
    sizes = [0, 1, 7, 8, 255, 65_535, 0, 65_536, 300_000, 900_000, MAX_MESSAGE_SIZE, 3]
    one = [os.urandom(size) for size in sizes]
    other = [bytes(size) for size in reversed(sizes)]
    with tunnel_pair(relay, end_to_end) as (connected, accepted), ThreadPoolExecutor() as pool:
        senders = [pool.submit(send_all, connected, one), pool.submit(send_all, accepted, other)]
        at_accepted = pool.submit(lambda: [accepted.receive(PATIENCE) for _ in one])
        at_connected = pool.submit(lambda: [connected.receive(PATIENCE) for _ in other])
        assert at_accepted.result(PATIENCE) == one
        assert at_connected.result(PATIENCE) == other
        for sender in senders:
            sender.result(PATIENCE)


def test_each_threads_messages_keep_their_order(relay):
    with tunnel_pair(relay) as (connected, accepted), ThreadPoolExecutor() as pool:

        def send_numbers(name: int) -> None:
            for number in range(200):
                connected.send(bytes([name, number]))

        for sender in [pool.submit(send_numbers, name) for name in range(4)]:
            sender.result(PATIENCE)
        received = [accepted.receive(PATIENCE) for _ in range(800)]
    for name in range(4):
        assert [message[1] for message in received if message[0] == name] == list(range(200))


def test_oversized_message_is_rejected(relay):
    with tunnel_pair(relay) as (connected, accepted):
        with pytest.raises(LocalProtocolError):
            connected.send(bytes(MAX_MESSAGE_SIZE + 1))
        connected.send(bytearray(b"small"))
        assert accepted.receive(PATIENCE) == b"small"


def test_receive_timeout_changes_nothing(relay):
    with tunnel_pair(relay) as (connected, accepted):
        with pytest.raises(TimeoutError):
            accepted.receive(timeout=0.01)
        with pytest.raises(TimeoutError):
            accepted.receive(timeout=0)
        connected.send(b"late")
        assert accepted.receive(PATIENCE) == b"late"


def test_send_waits_for_a_slow_reader(relay):
    with tunnel_pair(relay) as (connected, accepted):
        for number in fill(connected):
            assert accepted.receive(PATIENCE)[:NUMBER_SIZE] == number
        connected.send(b"there is room again", timeout=PATIENCE)
        assert accepted.receive(PATIENCE) == b"there is room again"
