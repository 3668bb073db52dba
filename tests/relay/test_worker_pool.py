"""The front process's side of the workers; the test plays theirs: what they hear, and which is chosen."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest
from offset_common.relay.handover import MAX_DATAGRAM, receive_with_sockets
from offset_common.relay.reasons import CloseReason
from offset_common.relay.worker_pool import LOAD_HALVES_IN, RESTART_DELAY, STUCK_AFTER, WorkerPool

from offset_common.errors import ServiceError
from offset_common.relay.limits import MIB, Limits
from tests.relay.rig import Mate, Rig

FILLING = b'{"do": "nothing"}'


class FakeProcess:
    """A worker without a process: the test has its end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel

    def kill(self) -> None:
        """End, as a process would."""
        self.channel.close()

    def wait(self, timeout: Optional[float] = None) -> int:
        """Say that it ended."""
        self.channel.close()
        return 0

    def heard(self) -> list[dict[str, Any]]:
        """Return the commands that are there."""
        commands: list[dict[str, Any]] = []
        while True:
            try:
                datagram, descriptors = receive_with_sockets(self.channel)
            except BlockingIOError:
                return commands
            for descriptor in descriptors:
                os.close(descriptor)
            if not descriptors and datagram != FILLING:
                commands.append(json.loads(datagram))

    def report(self, **values: Any) -> None:
        """Tell the front process something."""
        self.channel.send(json.dumps(values).encode())


class System:
    """Starts processes, if it can."""

    def __init__(self) -> None:
        self.processes: list[FakeProcess] = []
        self.most = 1000

    def popen(self, command: list[str], pass_fds: list[int], **_: Any) -> FakeProcess:
        if len(self.processes) >= self.most:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        channel = socket.socket(fileno=os.dup(pass_fds[0]))
        channel.setblocking(False)
        self.processes.append(FakeProcess(channel))
        return self.processes[-1]


class Front:
    """The front process: a rig whose tunnels go to workers.

    Args:
        rig: which it is put on.
        system: starts the workers.
        workers: how many.
    """

    def __init__(self, rig: Rig, system: System, workers: int) -> None:
        self.rig = rig
        self.system = system
        self.warnings: list[str] = []
        self.pool = WorkerPool(rig.loop, rig.relay.limits, workers, rig.relay.tunnels, self._warn)
        rig.relay.workers = self.pool

    def _warn(self, kind: str, text: str) -> None:
        self.warnings.append(text)

    def pair(self) -> tuple[Mate, Mate]:
        """Join two peers and hand them over."""
        near, far = self.rig.tunnel()
        self.pool._hand_over(near.link, far.link)
        return near, far

    def tunnels(self) -> list[int]:
        """Return how many tunnels each worker has."""
        return [len(worker.links) // 2 for worker in self.pool.workers]


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(subprocess, "Popen", made.popen)
    return made


@pytest.fixture
def front(rig: Rig, system: System) -> Iterator[Front]:
    """A front process with two workers."""
    made = Front(rig, system, 2)
    yield made
    for worker in made.pool.workers:
        if worker.alive:
            worker._died()


def descriptors() -> list[str]:
    return sorted(path.name for path in Path("/proc/self/fd").iterdir())


def fill(front: Front) -> None:
    """Fill the channel of the first worker, as many commands would."""
    channel = front.pool.workers[0]._channel
    assert channel is not None
    with contextlib.suppress(BlockingIOError):
        while True:
            channel.send(FILLING)


def test_a_worker_that_cannot_be_started_again_is_tried_again_and_leaves_nothing_open(
    front: Front, system: System
) -> None:
    worker = front.pool.workers[0]
    system.most = 2
    system.processes[0].kill()
    front.rig.until(lambda: not worker.alive)
    before = descriptors()
    for tries in range(3):
        front.rig.advance(RESTART_DELAY + 0.5)
        assert sum("cannot be started: Resource temporarily" in text for text in front.warnings) == tries + 1
    assert descriptors() == before
    system.most = 1000
    front.rig.advance(RESTART_DELAY + 0.5)
    assert worker.alive
    near, _ = front.pair()
    assert near.link.remote is worker


def test_a_relay_whose_workers_cannot_be_started_says_so_and_leaves_nothing_open(
    rig: Rig, system: System
) -> None:
    before = descriptors()
    system.most = 3
    with pytest.raises(ServiceError, match=r"cannot start 5 worker processes: Resource .*--workers"):
        WorkerPool(rig.loop, Limits(), 5, rig.relay.tunnels, lambda kind, text: None)
    assert descriptors() == before


def test_a_worker_is_told_once_to_finish_a_link(front: Front, system: System) -> None:
    near, _ = front.pair()
    for _ in range(5):
        near.link.finish(CloseReason.SHUTDOWN)
    assert system.processes[0].heard() == [{"do": "finish", "number": near.link.note, "reason": "SHUTDOWN"}]


def test_a_relay_that_stops_tells_each_link_once(front: Front, system: System) -> None:
    pairs = [front.pair() for _ in range(4)]
    front.rig.relay.stop(0.0)
    front.rig.rounds(10)
    numbers = [command["number"] for process in system.processes for command in process.heard()]
    assert sorted(numbers) == sorted(mate.link.note for pair in pairs for mate in pair)  # type: ignore[type-var]


def test_a_worker_that_takes_nothing_for_a_moment_gets_everything_in_order_later(
    front: Front, system: System
) -> None:
    worker, process = front.pool.workers[0], system.processes[0]
    pairs = [front.pair() for _ in range(4)]
    fill(front)
    front.rig.relay.stop(0.0)
    front.rig.advance(STUCK_AFTER - 4.0)
    assert process.heard() == []
    front.rig.until(lambda: not worker._unsent)
    numbers = [command["number"] for command in process.heard()]
    assert numbers == [mate.link.note for pair in pairs[::2] for mate in pair]
    front.rig.advance(STUCK_AFTER + 1.0)
    assert worker.alive, "what it took is not held against it"


def test_a_pair_does_not_overtake_what_its_worker_was_told_before(front: Front, system: System) -> None:
    first, second = front.pool.workers
    (near, _), _ = front.pair(), front.pair()
    third = front.rig.tunnel()
    fill(front)
    near.link.finish(CloseReason.SHUTDOWN)
    system.processes[0].heard()
    front.pool._hand_over(*(mate.link for mate in third))
    assert [mate.link.remote for mate in third] == [second, second]
    front.rig.until(lambda: not first._unsent)
    assert front.pair()[0].link.remote is first


def test_a_worker_that_takes_nothing_for_seconds_is_stuck(front: Front, system: System) -> None:
    (near, far), (other, _) = front.pair(), front.pair()
    fill(front)
    near.link.finish(CloseReason.SHUTDOWN)
    front.rig.advance(STUCK_AFTER - 1.0)
    assert front.pool.workers[0].alive
    front.rig.advance(2.0)
    assert front.warnings == ["a worker process ended, and 2 tunnel ends with it"]
    assert near.link.closed
    assert far.link.closed
    assert not other.link.closed, "the other worker lives on"


def test_a_worker_that_dies_while_the_relay_stops_is_not_started_again(front: Front, system: System) -> None:
    front.pair()
    front.pair()
    front.rig.relay.stop(3600.0)
    system.processes[0].kill()
    front.rig.until(lambda: not front.pool.workers[0].alive)
    front.rig.advance(RESTART_DELAY + 0.5)
    assert len(system.processes) == 2


def test_idle_workers_are_filled_evenly(front: Front, system: System) -> None:
    system.processes[0].report(forwarded=3000)
    front.rig.rounds()
    for _ in range(6):
        front.pair()
    assert front.tunnels() == [3, 3]


def test_a_busy_worker_is_avoided_until_it_was_idle_for_a_while(front: Front, system: System) -> None:
    system.processes[0].report(forwarded=100 * MIB)
    front.rig.until(lambda: front.pool.workers[0].forwarded() > 0)
    for _ in range(4):
        front.pair()
    assert front.tunnels() == [0, 4]
    front.rig.advance(8 * LOAD_HALVES_IN)
    for _ in range(4):
        front.pair()
    assert front.tunnels() == [4, 4]


def test_workers_that_are_about_as_busy_share_what_comes_within_a_second(
    front: Front, system: System
) -> None:
    for process, size in zip(system.processes, (50 * MIB, 60 * MIB)):
        process.report(forwarded=size)
    front.rig.until(lambda: all(worker.forwarded() for worker in front.pool.workers))
    for _ in range(6):
        front.pair()
    assert front.tunnels() == [3, 3]


def test_a_link_that_is_found_lost_at_the_moment_of_the_hand_over_goes_nowhere(
    front: Front, system: System
) -> None:
    near, far = front.rig.tunnel()
    near.link.connection.send(b"a last word", front.rig.loop.now)  # type: ignore[union-attr]
    near.sock.close()
    front.pool._hand_over(near.link, far.link)
    assert near.link.closed
    assert far.link.remote is None
    assert [process.heard() for process in system.processes] == [[], []]
    assert far.wait_for_end() == []


def test_the_channel_takes_the_largest_pair(front: Front, system: System) -> None:
    channel = front.pool.workers[0]._channel
    assert channel is not None
    channel.send(bytes(MAX_DATAGRAM))
    assert len(system.processes[0].channel.recv(2 * MAX_DATAGRAM)) == MAX_DATAGRAM
