"""A worker in the test's process, with the tunnels and commands of a front process."""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from offset_common.channel.connection import Connection
from offset_common.relay import event_loop
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import ConnectionSession
from offset_common.relay.lifecycle import Event, State
from offset_common.relay.limits import MIB
from offset_common.relay.sessions.tunnel import Tunnel
from offset_common.relay.workers.process import Worker
from offset_common.relay.workers.transfer import (
    MAX_DATAGRAM,
    End,
    decode_pair,
    encode_pair,
    end_of,
)
from tests.relay.harness import Harness, TestPeer, descriptors


class Moved(ConnectionSession):
    """A tunnel end that the worker has, as the front process sees it."""

    __slots__ = ()

    state = State.TUNNEL


class Front:
    """A worker whose rounds the test runs, and the front process's end of its channel."""

    def __init__(self) -> None:
        self.channel, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.setblocking(False)
        self.worker = Worker(self._theirs, 120.0, MIB)
        self.loop = self.worker.loop
        self._closed = False

    def run_round(self) -> None:
        """Run a round of the worker."""
        if not self._closed:
            self.loop.run_once()

    def move(
        self,
        near: TestPeer,
        far: TestPeer,
        near_output: bytes = b"",
        far_output: bytes = b"",
        number: int = 6,
    ) -> None:
        """Move a tunnel to the worker, as the front process does; let both peers run the worker's loop.

        Args:
            near: the connecting end.
            far: the accepting end.
            near_output: bytes that it has not read yet.
            far_output: the same for the other end.
            number: identifies the connecting end; the next one identifies the other.
        """
        connections = (near.connection, far.connection)
        ends = [end_of(connection, number) for number, connection in enumerate(connections, number)]
        ends = [end._replace(output=output) for end, output in zip(ends, (near_output, far_output))]
        datagram = encode_pair(*ends)
        assert datagram is not None
        socket.send_fds(self.channel, [datagram], [each.sock.fileno() for each in connections])
        for connection in connections:
            connection.release()
            connection.change_session(Event.MOVE, Moved(connection))
            connection.close(CloseReason.WORKER_ENDED)
        near.harness.loop.add_periodic(self.run_round, lambda: math.inf)

    def command(self, what: str, number: int) -> None:
        """Send a command to the worker."""
        self.channel.send(json.dumps({"do": what, "number": number, "reason": "SHUTDOWN"}).encode())

    def reports(self) -> list[dict[str, Any]]:
        """Receive the reports of the worker, except heartbeats."""
        reports: list[dict[str, Any]] = []
        while True:
            try:
                report = json.loads(self.channel.recv(1 << 16))
            except BlockingIOError:
                return [each for each in reports if "alive" not in each]
            reports.append(report)

    def close(self) -> None:
        """Release everything."""
        self._closed = True
        for connection in list(self.worker.numbers):
            connection.close(CloseReason.SHUTDOWN)
        self.channel.close()
        self._theirs.close()
        self.loop.close()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    monkeypatch.setattr(event_loop, "LONGEST_WAIT", 0.001)
    made = Front()
    yield made
    made.close()


def test_pair_arrives_as_it_was_sent() -> None:
    ends = (
        End(6, "1.1.1.1", b"K" * 32, {"a": 1}, b"in\n", b"out"),
        End(7, "::/64", b"\xff" * 32, {}, b"", b"\x00" * 9),
    )
    datagram = encode_pair(*ends)
    assert datagram is not None
    assert decode_pair(datagram) == list(ends)
    large = ends[0]._replace(input=bytes(MAX_DATAGRAM))
    assert encode_pair(large, ends[1]) is None


@pytest.mark.parametrize("command", ["finish", "close"])
def test_command_ends_both_sides(harness: Harness, front: Front, command: str) -> None:
    near, far = harness.tunnel()
    front.move(near, far)
    front.command(command, 6)
    for peer in (near, far):
        assert peer.wait_for_end() == []
        peer.sock.close()
    harness.run_until(lambda: not front.worker.numbers)
    harness.run_rounds(3)
    assert {report["ended"]: report["reason"] for report in front.reports()} == {
        6: "SHUTDOWN",
        7: "PARTNER_ENDED",
    }


def test_output_that_moves_outlives_the_other_end(harness: Harness, front: Front) -> None:
    near, far = harness.tunnel()
    assert far.connection.protocol is not None
    far.connection.protocol.send(b"last words", harness.loop.now)
    unread = far.connection.protocol.data_to_send()
    near.sock.close()
    front.move(near, far, b"never read", unread)
    assert far.wait_for_end() == [b"last words"]
    far.sock.close()
    harness.run_until(lambda: not front.worker.numbers)


def test_key_that_another_host_verified_moves_along(harness: Harness, front: Front) -> None:
    near, far = harness.tunnel()
    near.connection.key = b"F" * 32  # its connection comes from a host with another key
    front.move(near, far)
    harness.run_until(lambda: len(front.worker.numbers) == 2)
    assert [connection.key for connection in front.worker.numbers] == [b"F" * 32, far.key]


def test_worker_resumes_a_frame_that_waits_for_space(harness: Harness, front: Front) -> None:
    near, far = harness.tunnel()
    front.move(near, far)
    pool = front.worker._env.buffers
    other = pool.open_account("3.3.3.3")
    other.add(2 * pool.limit)
    message = os.urandom(200_000)
    data = near.encrypt(message)
    sent = near.write_until_paused(data)
    harness.run_until(lambda: pool.waiting == 1)
    other.add(-other.held)
    near.write(data[sent:])
    assert far.receive() == message


def bug(*_: object) -> None:
    raise ZeroDivisionError


def test_bug_is_reported_with_its_traceback(
    harness: Harness, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = harness.tunnel()
    front.move(near, far)
    with monkeypatch.context() as patch:
        patch.setattr(Tunnel, "on_readable", bug)
        near.send(b"anything")
        assert near.wait_for_end() == []
    assert far.wait_for_end() == []
    texts = [report["bug"] for report in front.reports() if "bug" in report]
    assert len(texts) == 1
    assert "ZeroDivisionError" in texts[0]
    assert "in bug" in texts[0]


def test_worker_stops_when_its_front_process_is_gone(front: Front) -> None:
    front.channel.close()
    with contextlib.suppress(BrokenPipeError):  # of a heartbeat
        front.loop.run_once()
    assert front.loop._stopped


def test_bug_in_taking_a_pair_ends_that_pair_alone(
    harness: Harness, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    near, far = harness.tunnel()
    front.move(near, far)
    lost = harness.tunnel()
    before = len(descriptors())
    with monkeypatch.context() as patch:
        patch.setattr(Connection, "import_state", bug)
        front.move(*lost, far_output=b"output", number=8)
        for peer in lost:
            assert peer.wait_for_end() == []
    near.send(b"message")
    assert far.receive() == b"message"
    harness.run_rounds(3)
    bug_report, *ends = front.reports()
    assert "ZeroDivisionError" in bug_report["bug"]
    assert [(each["ended"], each["reason"]) for each in ends] == [(8, "BUG"), (9, "BUG")]
    assert len(descriptors()) == before - 2


@pytest.mark.parametrize("arrived", [0, 1])
def test_only_the_pair_without_its_sockets_is_lost(harness: Harness, front: Front, arrived: int) -> None:
    near, far = harness.tunnel()
    datagram = encode_pair(end_of(near.connection, 6), end_of(far.connection, 7))
    assert datagram is not None
    before = descriptors()
    if arrived:
        socket.send_fds(front.channel, [datagram], [near.connection.sock.fileno()])
    else:
        front.channel.send(datagram)
    front.loop.run_once()
    reports = front.reports()
    assert [(each["ended"], each["reason"]) for each in reports] == [
        (6, "CONNECTION_LOST"),
        (7, "CONNECTION_LOST"),
    ]
    assert descriptors() == before
    assert not front.loop._stopped
