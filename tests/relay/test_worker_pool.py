"""The front process's side of the workers: the choice of a worker, its commands and reports, and its end.

The test plays the workers, except in the last tests.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, Optional

import pytest

from offset_common.errors import ServiceError
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.event_loop import EACH_IN_ROUND, TASKS_IN_ROUND, EventLoop
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.policy import Policy
from offset_common.relay.sessions.tunnel import Tunnels
from offset_common.relay.workers.handle import RESTART_DELAY, RemoteTunnel, WorkerHandle
from offset_common.relay.workers.pool import WorkerPool
from offset_common.relay.workers.transfer import MAX_DATAGRAM, decode_pair
from offset_common.wire.messages import InitConnection, InitRole
from tests.relay.harness import Harness, TestPeer, descriptors

FILLING = b'{"do": "nothing"}'
STEP = 0.25  # seconds
FOUND_WITHIN = 5.0  # seconds, as docs/security.md promises


class FakeProcess:
    """A worker without a process: the test has its end of the channel."""

    pid = 0

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self.stderr = io.BytesIO()
        self.killed = False
        self.stuck = False  # it does not end
        self.returncode: Optional[int] = None
        self.pairs: list[tuple[int, int]] = []

    def kill(self) -> None:
        """End, as a process does."""
        self.killed = True
        self.channel.close()

    def wait(self, timeout: Optional[float] = None) -> int:
        """Report that it ended, if it did within a timeout."""
        if self.stuck or timeout == 0.0:  # no process ends at once
            assert timeout is not None, "the front process waits without end"
            raise subprocess.TimeoutExpired("a worker", timeout)
        self.channel.close()
        self.returncode = 0
        return 0

    def commands(self) -> list[dict[str, Any]]:
        """Receive everything that was sent; return the commands."""
        commands: list[dict[str, Any]] = []
        while True:
            try:
                datagram, descriptors, _, _ = socket.recv_fds(self.channel, MAX_DATAGRAM, 2)
            except BlockingIOError:
                return commands
            for descriptor in descriptors:
                os.close(descriptor)
            if descriptors:
                first, second = decode_pair(datagram)
                self.pairs.append((first.number, second.number))
            elif datagram != FILLING:
                commands.append(json.loads(datagram))

    def report(self, **values: Any) -> None:
        """Report something to the front process."""
        self.channel.send(json.dumps(values).encode())

    def beat(self) -> None:
        """Send a heartbeat."""
        self.report(alive=True)


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
    """The front process of a relay with two workers.

    Args:
        processes: the workers, if they are fake ones.
    """

    def __init__(self, processes: Sequence[FakeProcess] = ()) -> None:
        self._processes = processes
        self.harness = Harness(Limits(handshake_threads=1), workers=2)
        pool = self.harness.relay.rendezvous._tunnels
        assert isinstance(pool, WorkerPool)
        self.workers = pool.workers

    def check_end(self) -> None:
        """End the workers and all peers, and check that nothing is left."""
        for process in self._processes:
            process.channel.close()
        self.harness.check_end()

    def tunnel(self) -> tuple[TestPeer, TestPeer]:
        """Return a tunnel that was moved to a worker."""
        pair = self.harness.tunnel()
        self.harness.run_rounds(2)
        return pair

    def tunnels(self) -> list[int]:
        """Return how many tunnels each worker has."""
        return [len(worker.connections) // 2 for worker in self.workers]

    def advance(self, seconds: float, *beating: FakeProcess) -> None:
        """Advance the clock in small steps, in which some workers send heartbeats."""
        for _ in range(int(seconds / STEP)):
            for process in beating:
                process.beat()
            self.harness.advance(STEP)

    def lines(self, event: str) -> list[str]:
        """Return the log's lines about one event."""
        return [line for line in self.harness.log.lines if event in line]

    def fill(self) -> None:
        """Fill the channel of the first worker."""
        channel = self.workers[0]._channel
        assert channel is not None
        with contextlib.suppress(BlockingIOError):
            while True:
                channel.send(FILLING)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    made = System()
    monkeypatch.setattr(subprocess, "Popen", made.popen)
    return made


@pytest.fixture
def starting(system: System) -> Iterator[Front]:
    """A front process whose two workers are starting."""
    made = Front(system.processes)
    yield made
    made.harness.release()


@pytest.fixture
def front(starting: Front, system: System) -> Front:
    """A front process whose two workers have started."""
    for process in system.processes:
        process.beat()
    starting.harness.run_rounds(2)
    return starting


def remote_session(peer: TestPeer) -> RemoteTunnel:
    session = peer.connection.session
    assert isinstance(session, RemoteTunnel)
    return session


def worker_of(peer: TestPeer) -> WorkerHandle:
    return remote_session(peer)._worker


def number_of(peer: TestPeer) -> int:
    return remote_session(peer)._number


def test_tunnel_goes_to_a_worker_with_its_sockets(front: Front, system: System) -> None:
    near, far = front.tunnel()
    assert system.processes[0].commands() == []
    assert system.processes[0].pairs == [(number_of(near), number_of(far))]
    assert near.connection.sock.fileno() == -1
    assert near.state is State.TUNNEL


def test_tunnel_on_its_way_to_a_worker_is_not_read(front: Front) -> None:
    harness = front.harness
    listener = harness.listener()
    near = harness.pending(listener)
    assert listener.incoming_key() == near.key
    pool = harness.relay.buffers
    neighbour = pool.open_account(near.connection.address.prefix)
    neighbour.add(pool.limit)
    near.send(bytes(3000), bytes(3000))
    harness.run_until(lambda: pool.waiting == 1)

    def release_space() -> None:
        if near.state is State.TUNNEL:
            neighbour.add(-neighbour.held)

    far = harness.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    while near.state is not State.TUNNEL:
        for _ in range(TASKS_IN_ROUND):  # so that the tunnel moves in the next round
            harness.loop.call_soon(release_space)
        harness.run_rounds(1)
    assert not near.connection.reading
    harness.run_rounds(3)
    assert worker_of(near) is worker_of(far)


def test_report_of_an_end_closes_the_connection(front: Front, system: System) -> None:
    near, _ = front.tunnel()
    received, sent = near.connection.received, near.connection.sent
    system.processes[0].report(
        ended=number_of(near), reason="STALLED", detail="some detail", received=100, sent=200
    )
    assert front.harness.end_of(near.connection)[1:] == (CloseReason.STALLED, "some detail")
    assert (near.connection.received, near.connection.sent) == (received + 100, sent + 200)
    assert system.processes[0].commands() == [], "the worker needs no command"


def test_worker_closes_an_end_that_the_front_closed(front: Front, system: System) -> None:
    near, _ = front.tunnel()
    number = number_of(near)
    near.connection.close(CloseReason.DENIED)
    assert system.processes[0].commands() == [{"do": "close", "number": number, "reason": "DENIED"}]


def test_reports_of_a_worker_are_taken_over_many_rounds(front: Front, system: System) -> None:
    near, _ = front.tunnel()
    for _ in range(EACH_IN_ROUND):
        system.processes[0].beat()
    system.processes[0].report(ended=number_of(near), reason="STALLED", detail="", received=0, sent=0)
    front.harness.run_rounds(1)
    assert not near.connection.closed
    assert front.harness.reason_of(near.connection) is CloseReason.STALLED


def test_bug_of_a_worker_is_logged(front: Front, system: System) -> None:
    system.processes[0].report(bug="Traceback: a bug")
    front.harness.run_until(lambda: front.lines("bug in a worker") != [])
    assert "a bug" in front.lines("bug in a worker")[0]


def test_stopping_relay_finishes_each_end_once(front: Front, system: System) -> None:
    numbers = [number_of(peer) for _ in range(4) for peer in front.tunnel()]
    front.harness.relay.stop(0.0)
    front.harness.run_rounds(10)
    finished = [command["number"] for process in system.processes for command in process.commands()]
    assert sorted(finished) == sorted(numbers)


def test_busy_worker_gets_its_commands_later_in_order(front: Front, system: System) -> None:
    tunnels = [front.tunnel() for _ in range(4)]
    numbers = [number_of(peer) for pair in tunnels[::2] for peer in pair]
    front.fill()
    front.harness.relay.stop(0.0)
    front.advance(1.0)
    assert system.processes[0].commands() == []
    front.harness.run_until(lambda: not front.workers[0]._unsent)
    assert [command["number"] for command in system.processes[0].commands()] == numbers


def test_tunnel_does_not_overtake_commands(front: Front, system: System) -> None:
    first, second = front.workers
    near, _ = front.tunnel()
    front.tunnel()
    front.fill()
    near.connection.session.finish(CloseReason.SHUTDOWN)
    assert [worker_of(peer) for peer in front.tunnel()] == [second, second]
    system.processes[0].commands()  # now there is room, but a command waits
    assert not first.take((near.connection, near.connection), (90, 91))
    front.harness.run_until(lambda: not first._unsent)
    assert worker_of(front.tunnel()[0]) is first


@pytest.mark.parametrize("beats_before", [True, False])
def test_hanging_worker_is_found_and_killed(front: Front, system: System, beats_before: bool) -> None:
    (near, far), (other, _) = front.tunnel(), front.tunnel()
    hangs, lives = system.processes
    if beats_before:
        front.advance(3.0, hangs, lives)
    front.advance(2.0, lives)
    assert not hangs.killed
    front.advance(FOUND_WITHIN - 2.0, lives)
    assert hangs.killed
    for peer in (near, far):
        assert front.harness.reason_of(peer.connection) is CloseReason.WORKER_ENDED
    assert other.state is State.TUNNEL
    assert [line for line in front.lines("worker hangs") if "lost_tunnel_ends=2" in line]
    front.advance(RESTART_DELAY + 2 * STEP, lives)
    assert len(system.processes) == 3


def test_worker_that_cannot_be_killed_is_left_alone(front: Front, system: System) -> None:
    near, _ = front.tunnel()
    hangs, lives = system.processes
    hangs.stuck = True
    front.advance(FOUND_WITHIN, lives)
    assert hangs.killed
    assert front.harness.reason_of(near.connection) is CloseReason.WORKER_ENDED
    assert len(front.lines("worker hangs")) == 1
    front.advance(RESTART_DELAY + 2 * STEP, lives)
    assert len(system.processes) == 3


def test_new_tunnels_avoid_a_worker_that_misses_heartbeats(front: Front, system: System) -> None:
    _, lives = system.processes
    front.advance(2.0, lives)
    for _ in range(3):
        assert worker_of(front.tunnel()[0]) is front.workers[1]


def test_front_process_serves_tunnels_without_a_worker(front: Front, system: System) -> None:
    front.advance(2.0)
    near, far = front.tunnel()
    near.send(b"served here")
    assert far.receive() == b"served here"


def test_stopped_front_process_blames_no_worker(front: Front, system: System) -> None:
    near, _ = front.tunnel()
    front.advance(1.0, *system.processes)
    front.harness.advance(3600.0)
    front.advance(10.0, *system.processes)
    assert not any(process.killed for process in system.processes)
    assert near.state is State.TUNNEL


def test_worker_has_half_a_minute_to_start(starting: Front, system: System) -> None:
    starting.advance(25.0)
    assert not any(process.killed for process in system.processes)
    starting.advance(25.0)
    assert all(process.killed for process in system.processes[:2])


def test_dead_worker_ends_its_tunnels_and_is_started_again(front: Front, system: System) -> None:
    (near, far), (other, _) = front.tunnel(), front.tunnel()
    system.processes[0].channel.close()
    for peer in (near, far):
        assert front.harness.reason_of(peer.connection) is CloseReason.WORKER_ENDED
    assert other.state is State.TUNNEL
    assert [line for line in front.lines("worker ended") if "lost_tunnel_ends=2" in line]
    assert worker_of(front.tunnel()[0]) is front.workers[1]
    front.harness.advance(RESTART_DELAY + STEP)
    assert worker_of(front.tunnel()[0]) is front.workers[0]


def test_worker_that_cannot_be_started_is_tried_again(front: Front, system: System) -> None:
    system.most = 2
    system.processes[0].channel.close()
    front.harness.run_until(lambda: front.workers[0]._channel is None)
    before = descriptors()
    for tries in range(3):
        front.harness.advance(RESTART_DELAY + STEP)
        lines = front.lines("cannot start a worker")
        assert len(lines) == tries + 1
        assert "Resource temporarily unavailable" in lines[-1]
    assert descriptors() == before
    system.most = 1000
    front.harness.advance(RESTART_DELAY + STEP)
    assert worker_of(front.tunnel()[0]) is front.workers[0]


@pytest.mark.parametrize(
    ("written", "logged"),
    [
        (b"ERROR: ld.so: object 'x.so' from LD_PRELOAD cannot be preloaded: ignored.\n", 0),
        (b"Exception ignored in: x\nTraceback (most recent call last):\nKeyError: 5\n", 1),
    ],
    ids=["system", "Python"],
)
def test_only_tracebacks_of_workers_are_bugs(
    front: Front, system: System, written: bytes, logged: int
) -> None:
    system.processes[0].stderr.write(written)
    system.processes[0].stderr.seek(0)
    front.workers[0].disconnect()
    front.workers[0].wait_for_end()
    assert len(front.lines("bug in a worker")) == logged


def test_relay_whose_workers_cannot_be_started_leaves_nothing(system: System) -> None:
    loop = EventLoop()
    before = descriptors()
    system.most = 3
    with pytest.raises(ServiceError, match=r"cannot start 5 worker processes: Resource .*--workers"):
        WorkerPool(loop, Limits(), 5, Tunnels(), Policy().worker_program)
    assert descriptors() == before
    loop.close()


def test_error_names_a_missing_file_that_workers_need(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = EventLoop()
    monkeypatch.setattr(os, "devnull", "/nowhere/null")  # a chroot without /dev
    with pytest.raises(ServiceError, match=r"^cannot start 2 worker processes: /nowhere/null: No such file"):
        WorkerPool(loop, Limits(), 2, Tunnels(), Policy().worker_program)
    loop.close()


def test_dead_worker_of_a_stopping_relay_stays_dead(front: Front, system: System) -> None:
    front.tunnel()
    front.tunnel()
    front.harness.relay.stop(3600.0)
    system.processes[0].channel.close()
    front.harness.run_until(lambda: front.workers[0]._channel is None)
    front.harness.advance(RESTART_DELAY + STEP)
    assert len(system.processes) == 2


def test_worker_with_fewest_tunnels_gets_the_next(front: Front, system: System) -> None:
    tunnels = [front.tunnel() for _ in range(6)]
    assert front.tunnels() == [3, 3]
    first = worker_of(tunnels[0][0])
    ended = [peer for pair in tunnels for peer in pair if worker_of(peer) is first]
    for peer in ended:
        peer.connection.close(CloseReason.STALLED)
    assert [worker_of(front.tunnel()[0]) for _ in range(3)] == [first] * 3


def test_tunnel_that_ended_before_the_move_goes_nowhere(front: Front, system: System) -> None:
    harness = front.harness
    listener = harness.listener()
    near = harness.pending(listener)
    near.send(b"early")
    harness.run_rounds()
    far = harness.admit(listener.identity)
    far.send(InitConnection(InitRole.ACCEPT, near.key).encode())
    far.sock.close()
    assert near.wait_for_end() == []
    near.sock.close()
    assert front.harness.reason_of(near.connection) is CloseReason.PARTNER_ENDED
    assert [process.commands() for process in system.processes] == [[], []]
    assert [process.pairs for process in system.processes] == [[], []]


def test_bug_in_a_move_ends_that_tunnel_alone(front: Front, system: System) -> None:
    front.tunnel()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WorkerHandle, "take", lambda *_: 1 // 0)
        near, far = front.harness.tunnel()
        assert front.harness.reason_of(far.connection) is CloseReason.BUG
    assert near.wait_for_end() == []
    near.sock.close()
    assert front.harness.reason_of(near.connection) is CloseReason.PARTNER_ENDED
    front.tunnel()
    assert sum(front.tunnels()) == 2


def test_channel_takes_the_largest_datagram(front: Front, system: System) -> None:
    channel = front.workers[0]._channel
    assert channel is not None
    channel.send(bytes(MAX_DATAGRAM))
    assert len(system.processes[0].channel.recv(2 * MAX_DATAGRAM)) == MAX_DATAGRAM


# With real processes.


@pytest.fixture
def real() -> Iterator[Front]:
    """A front process whose two real workers have started."""
    made = Front()
    made.harness.run_until(lambda: all(has_started(worker) for worker in made.workers))
    yield made
    made.harness.release()


def has_started(worker: WorkerHandle) -> bool:
    return worker._missed_allowed < 10


def test_real_worker_forwards_in_order(real: Front) -> None:
    listener = real.harness.listener()
    near = real.harness.pending(listener)
    messages = [os.urandom(size) for size in (10, 30_000, 7, 100_000)]
    data = near.encrypt(*messages)
    near.write(data[:20_000])
    real.harness.run_rounds()
    far = real.harness.admit(listener.identity).request(InitRole.ACCEPT, near.key)
    near.write(data[20_000:])
    near.sock.close()
    assert far.wait_for_end() == messages
    assert worker_of(far) in real.workers
    far.sock.close()
    assert real.harness.reason_of(near.connection) is CloseReason.PEER_CLOSED
    assert real.harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED


def test_last_words_of_a_worker_are_in_the_log(real: Front) -> None:
    real.workers[0]._program = ["no_such_module"]
    process = real.workers[0]._process
    process.kill()
    real.harness.run_until(lambda: real.lines("worker ended") != [])
    assert f"status=-{signal.SIGKILL:d}" in real.lines("worker ended")[0]
    real.harness.advance(RESTART_DELAY + STEP)
    real.harness.run_until(lambda: len(real.lines("worker ended")) == 2)
    assert "status=1\n" in real.lines("worker ended")[1]
    assert "No module named no_such_module" in real.lines("worker ended")[1]


def test_real_worker_that_is_stopped_is_killed(real: Front) -> None:
    near, far = real.tunnel()
    hangs = worker_of(near)
    (lives,) = [worker for worker in real.workers if worker is not hangs]
    process = hangs._process
    os.kill(process.pid, signal.SIGSTOP)
    for _ in range(int(FOUND_WITHIN / 2 / STEP)):
        real.advance(2 * STEP)
        # Virtual time advances as fast as the other worker sends heartbeats.
        real.harness.run_until(lambda: lives._missed == 0)
    assert process.returncode == -signal.SIGKILL
    for peer in (near, far):
        assert real.harness.reason_of(peer.connection) is CloseReason.WORKER_ENDED
        assert peer.wait_for_end() == []
    assert worker_of(real.tunnel()[0]) is lives
