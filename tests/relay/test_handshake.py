"""Handshakes: the session before the key is proven, and the pool of threads that computes them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Callable, Optional

import pytest

from offset_common.channel.connection import VERSION_FRAME, Connection
from offset_common.constants import HANDSHAKE_TIMEOUT
from offset_common.errors import ServiceError
from offset_common.identity import Identity
from offset_common.relay.admission import Admission
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.fair_queue import FairQueue
from offset_common.relay.handshake_pool import HandshakeJob, HandshakePool
from offset_common.relay.lifecycle import State
from offset_common.relay.limits import Limits
from offset_common.relay.log import RelayLog
from offset_common.relay.server import Relay
from offset_common.relay.sockets import set_timeouts
from tests.relay.harness import LATE, Harness, TestPeer
from tests.support.process import PATIENCE, wait_until

Done = Callable[[HandshakeJob], None]


class Caller(TestPeer):
    """A peer that goes through the handshake step by step."""

    def __init__(
        self, harness: Harness, address: str = "127.0.0.1", identity: Optional[Identity] = None
    ) -> None:
        identity = identity or Identity.generate()
        sock = harness.connect_socket((address, 5000))
        connection: SocketConnection = harness.relay.admission.all()[-1]
        protocol = Connection(identity, harness.loop.now, harness.identity.public_key)
        super().__init__(harness, connection, sock, protocol, identity)
        harness.peers.append(self)

    def step(self) -> bool:
        """Send and receive once; return whether the relay has proven its key."""
        with contextlib.suppress(OSError):
            self.sock.send(self.protocol.data_to_send())
        self.has_message()
        return self.protocol.established

    def authenticate(self) -> Caller:
        """Go through the whole handshake."""
        self.harness.run_until(self.step)
        self.step()
        self.harness.run_until(lambda: bool(self.connection.key))
        return self

    def wait_until_returned(self) -> None:
        """Wait until the handshake pool has handled what was sent."""
        self.harness.run_rounds(2)
        self.harness.run_until(lambda: self.connection in evictable(self.harness.relay.admission))


def evictable(admission: Admission) -> list[SocketConnection]:
    """Return the connections that are not in the handshake pool and have no role."""
    return [each for group in admission._evictable._connections.values() for each in group]


def hold_jobs(monkeypatch: pytest.MonkeyPatch) -> list[HandshakeJob]:
    """Return the list of all jobs from now on, which no thread takes."""
    jobs: list[HandshakeJob] = []
    queue: FairQueue[HandshakeJob] = FairQueue()

    def submit(
        pool: HandshakePool, sock: socket.socket, protocol: Connection, address: str, done: Done
    ) -> None:
        jobs.append(HandshakeJob(queue.address(address), sock, protocol, done))

    monkeypatch.setattr(HandshakePool, "submit", submit)
    return jobs


def caller_in_the_pool(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> tuple[Caller, HandshakeJob]:
    """Return a caller that has begun its handshake, and its job, which no thread takes."""
    jobs = hold_jobs(monkeypatch)
    caller = Caller(harness)
    caller.step()
    harness.run_until(lambda: bool(jobs))
    return caller, jobs[0]


def stopped_callers(harness: Harness) -> list[Caller]:
    """Return callers that stopped at different points: silent, in the version, in the handshake."""
    silent, cut, halfway = (Caller(harness) for _ in range(3))
    cut.sock.send(cut.protocol.data_to_send()[:14])
    halfway.step()
    return [silent, cut, halfway]


def test_handshake_proves_the_peer_key(harness: Harness) -> None:
    caller = Caller(harness).authenticate()
    assert caller.connection.session.state is State.AWAITING_INIT
    assert caller.connection.key == caller.identity.public_key
    assert harness.relay.rendezvous.authenticated == 1


def test_handshake_may_arrive_byte_by_byte(harness: Harness) -> None:
    caller = Caller(harness)

    def is_authenticated() -> bool:
        for byte in caller.protocol.data_to_send():
            caller.sock.send(bytes([byte]))
            harness.run_rounds(1)
        caller.has_message()
        return bool(caller.connection.key)

    harness.run_until(is_authenticated)


def test_partial_frames_stay_in_the_event_loop(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = hold_jobs(monkeypatch)
    caller = Caller(harness)
    *first, last = VERSION_FRAME
    for byte in first:
        caller.sock.send(bytes([byte]))
        harness.run_rounds()
    assert caller.connection.received == len(first)
    assert not jobs
    caller.sock.send(bytes([last]))
    harness.run_until(lambda: bool(jobs))
    jobs[0].done(jobs[0])


def test_peer_that_stops_halfway_may_go_on_later(harness: Harness) -> None:
    caller = Caller(harness)
    caller.step()
    caller.wait_until_returned()
    harness.advance(4.0)
    caller.authenticate()


def test_peer_that_closes_halfway_is_forgotten(harness: Harness) -> None:
    for caller in stopped_callers(harness):
        caller.sock.close()
    harness.run_until(lambda: len(harness.ends) == 3)
    assert {end.reason for end in harness.ends} <= {CloseReason.PEER_CLOSED, CloseReason.CONNECTION_LOST}


def test_drain_leaves_a_socket_to_the_thread_that_has_it(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, job = caller_in_the_pool(harness, monkeypatch)
    harness.relay.stop(60.0)
    harness.run_rounds()
    assert job.sock.fileno() >= 0
    job.done(job)
    assert harness.reason_of(caller.connection) is CloseReason.SHUTDOWN


def test_deadline_closes_no_socket_that_a_thread_uses(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller, job = caller_in_the_pool(harness, monkeypatch)
    harness.advance(HANDSHAKE_TIMEOUT + LATE)
    assert job.sock.fileno() >= 0
    job.done(job)
    harness.advance(LATE)
    assert harness.reason_of(caller.connection) is CloseReason.HANDSHAKE_TIMEOUT


def test_traffic_of_the_handshake_is_counted(harness: Harness) -> None:
    caller = Caller(harness)
    sent = len(caller.protocol.data_to_send())
    caller.sock.send(bytes(sent))
    harness.reason_of(caller.connection)
    assert (caller.connection.received, caller.connection.sent) == (sent, len(VERSION_FRAME))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", CloseReason.NOT_OFFSET),
        (b"\x00\x00\x00\x00\x00\x00\x00\x04\x00\x00\x00\x01", CloseReason.NOT_OFFSET),
        (b"\x00\x00\x00\x04\x00\x00\x00\x00", CloseReason.OLD_PEER),
        (VERSION_FRAME + b"\x00" * 7 + b"\x09" + b"\xee" * 9, CloseReason.PROTOCOL_ERROR),
        (VERSION_FRAME + b"\xff" * 8, CloseReason.PROTOCOL_ERROR),
        (b"", CloseReason.PEER_CLOSED),
    ],
    ids=["http", "version 1", "before 0.1.3", "no message", "length over the limit", "nothing"],
)
def test_other_input_ends_with_its_reason(harness: Harness, data: bytes, reason: CloseReason) -> None:
    caller = Caller(harness)
    caller.sock.send(data) if data else caller.sock.shutdown(socket.SHUT_WR)
    assert harness.reason_of(caller.connection) is reason


class Forger(Identity):
    """Claims a key that it cannot sign with."""

    def sign(self, message: bytes) -> bytes:
        return Identity.generate().sign(message)


def test_forged_signature_fails_the_handshake(harness: Harness) -> None:
    caller = Caller(harness, identity=Forger.generate())
    harness.run_until(caller.step)
    caller.step()
    assert harness.reason_of(caller.connection) is CloseReason.HANDSHAKE_FAILED


def new_pool(threads: int = 1) -> HandshakePool:
    """Return a pool whose threads handle their results themselves."""
    return HandshakePool(Identity.generate(), threads, lambda task: task())


class Pair:
    """A job for the pool, and the peer's socket."""

    def __init__(self, address: str, done: list[Pair]) -> None:
        self.address = address
        self.sock, self.peer = socket.socketpair()
        set_timeouts(self.sock)
        self.returned = threading.Event()
        self.established = False
        self._done = done

    def submit(self, pool: HandshakePool) -> None:
        protocol = Connection(Identity.generate(), time.monotonic())
        protocol.receive_data(VERSION_FRAME)
        pool.submit(self.sock, protocol, self.address, self._finish)

    def _finish(self, job: HandshakeJob) -> None:
        self._done.append(self)
        self.established = job.protocol.established
        self.returned.set()

    def close(self) -> None:
        self.sock.close()
        self.peer.close()


def test_partial_frame_gives_up_its_thread_at_once() -> None:
    pool = new_pool()
    pair = Pair("1.1.1.1", [])
    pair.sock.settimeout(2 * PATIENCE)  # a wait for the rest of the frame would not end by itself
    pair.submit(pool)
    pair.peer.sendall(bytes(7))
    assert pair.returned.wait(PATIENCE)
    assert not pair.established
    pool.close()
    pair.close()


class HeldPool:
    """A pool whose only thread holds the first of many jobs until `go_on` is set.

    Args:
        monkeypatch: replaces `HandshakeJob.run`.
        address: the address of the jobs.
        count: the number of jobs.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, address: str, count: int) -> None:
        self.go_on = threading.Event()
        runs = threading.Event()

        def run(job: HandshakeJob, *_: object) -> None:
            runs.set()
            assert self.go_on.wait(PATIENCE)

        monkeypatch.setattr(HandshakeJob, "run", run)
        self.pool = new_pool()
        self.done: list[Pair] = []
        self.pairs = [Pair(address, self.done) for _ in range(count)]
        for pair in self.pairs:
            pair.submit(self.pool)
        assert runs.wait(PATIENCE)


def test_thread_waits_for_no_peer_while_jobs_are_queued() -> None:
    sock, peer = socket.socketpair()  # a wait for the peer would not end
    protocol = Connection(Identity.generate(), time.monotonic())
    protocol.receive_data(VERSION_FRAME)
    job = HandshakeJob(FairQueue[HandshakeJob]().address("1.1.1.1"), sock, protocol, lambda _: None)
    thread = threading.Thread(target=job.run, args=[lambda: True], daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert job.error is None
    for each in (sock, peer):
        each.close()


def test_jobs_are_taken_fairly_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldPool(monkeypatch, "flood", 50)
    pool, done, pairs = held.pool, held.done, held.pairs
    pairs += [Pair("one", done), Pair("other", done)]
    for pair in pairs[-2:]:
        pair.submit(pool)
    held.go_on.set()
    for pair in pairs:
        assert pair.returned.wait(PATIENCE)
    order = [pair.address for pair in done]
    assert {"one", "other"} <= set(order[:5])
    first, *others = (pair for pair in done if pair.address == "flood")
    assert others == [pair for pair in pairs[-3::-1] if pair is not first], "not the newest first"
    pool.close()
    for pair in pairs:
        pair.close()


def test_closing_the_pool_drops_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    held = HeldPool(monkeypatch, "1.1.1.1", 10)
    pool = held.pool
    close = threading.Thread(target=pool.close)
    close.start()
    wait_until(lambda: pool._closing)
    held.go_on.set()
    close.join(PATIENCE)
    for thread in pool._threads:
        thread.join(PATIENCE)
    assert len(held.done) == 1
    for pair in held.pairs:
        pair.close()


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Make the system start at most three threads; return them."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    return started


def test_too_few_threads_is_an_error_for_the_operator(few_threads: list[threading.Thread]) -> None:
    before = threading.stack_size()
    with pytest.raises(ServiceError, match=r"started 3 of 256 .*--handshake-threads"):
        new_pool(256)
    assert len(few_threads) == 3
    assert not any(thread.is_alive() for thread in few_threads)
    assert threading.stack_size() == before


def test_relay_without_its_threads_ends_its_workers(few_threads: list[threading.Thread]) -> None:
    with pytest.raises(ServiceError, match="--handshake-threads"):
        Relay(Identity.generate(), [], Limits(handshake_threads=4), RelayLog(None), workers=2)
    assert not any(thread.is_alive() for thread in few_threads)
