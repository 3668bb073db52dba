"""Accepting: the rate, a system that runs out of descriptors, and admission control over the real loop."""

from __future__ import annotations

import errno
import socket
from typing import Optional

import pytest

from offset_common.relay.acceptor import Acceptor
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.limits import Limits
from tests.relay.harness import Harness, running
from tests.relay.test_handshake import Caller


class Listening:
    """A listening TCP socket whose accept can fail for lack of descriptors."""

    def __init__(self) -> None:
        self._sock = socket.create_server(("127.0.0.1", 0))
        self._sock.setblocking(False)
        self.address = self._sock.getsockname()
        self.error: Optional[OSError] = None
        self.tries = 0

    def fileno(self) -> int:
        return self._sock.fileno()

    def accept(self) -> object:
        self.tries += 1
        if self.error is not None:
            raise self.error
        return self._sock.accept()

    def close(self) -> None:
        self._sock.close()


class Listener:
    """An acceptor of a relay, and clients."""

    def __init__(self, harness: Harness, rate: int = 5000) -> None:
        self.harness = harness
        self.sock = Listening()
        relay = harness.relay
        self._acceptor = Acceptor(
            harness.loop,
            self.sock,  # type: ignore[arg-type]
            rate,
            relay.entrance.accept,
            relay.entrance.free_resources,
        )
        self._clients: list[socket.socket] = []

    def connect(self, count: int) -> None:
        """Connect clients."""
        self._clients += [socket.create_connection(self.sock.address) for _ in range(count)]

    def close(self) -> None:
        """Close the clients, wait until the relay has noticed it, and close the socket."""
        for client in self._clients:
            client.close()
        self.harness.run_until(lambda: not len(self.harness.relay.admission))
        self._acceptor.close()


def test_out_of_descriptors_pauses_and_evicts(harness: Harness) -> None:
    listener = Listener(harness)
    silent = Caller(harness)
    listener.sock.error = OSError(errno.EMFILE, "Too many open files")
    listener.connect(1)
    assert harness.reason_of(silent.connection) is CloseReason.EVICTED
    assert [line for line in harness.log.lines if "cannot accept" in line and "Too many open files" in line]
    harness.run_rounds(20)
    assert listener.sock.tries == 2, "accepting did not pause"
    listener.sock.error = None
    harness.advance(0.6)
    harness.run_until(lambda: len(harness.relay.admission) == 1)
    silent.sock.close()
    listener.close()


def test_forbidden_accept_does_not_keep_the_loop_busy(harness: Harness) -> None:
    listener = Listener(harness)
    silent = Caller(harness)
    listener.sock.error = PermissionError(errno.EACCES, "Permission denied")
    listener.connect(1)
    harness.run_rounds(20)
    assert listener.sock.tries == 1, "accepting did not pause"
    assert [line for line in harness.log.lines if "cannot accept" in line and "Permission denied" in line]
    assert not silent.connection.closed
    listener.sock.error = None
    harness.advance(0.6)
    harness.run_until(lambda: len(harness.relay.admission) == 2)
    silent.sock.close()
    listener.close()


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH, errno.ETIMEDOUT])
def test_error_of_one_connection_does_not_pause_accepting(harness: Harness, number: int) -> None:
    listener = Listener(harness)
    listener.sock.error = OSError(number, "Failed")
    listener.connect(1)
    harness.run_until(lambda: listener.sock.tries == 1)
    listener.sock.error = None
    harness.run_until(lambda: len(harness.relay.admission) == 1)  # the clock has not advanced
    assert not [line for line in harness.log.lines if "cannot accept" in line]
    listener.close()


def test_accepting_goes_on_at_the_rate_before_the_next_second(harness: Harness) -> None:
    limited = Listener(harness, rate=40)
    limited.connect(100)
    harness.run_until(lambda: len(harness.relay.admission) == 40)
    harness.run_rounds(20)
    assert len(harness.relay.admission) == 40
    assert limited.sock.fileno() not in harness.loop._selector.get_map(), "it would keep the loop busy"
    for accepted in (60, 80):
        harness.advance(0.5)
        assert len(harness.relay.admission) == accepted
    limited.close()


def test_error_of_one_connection_stops_nothing(harness: Harness) -> None:
    listener = Listener(harness)
    accept = listener.sock.accept
    errors = [OSError(errno.ECONNABORTED, "aborted")]
    listener.sock.accept = lambda: accept() if not errors else (_ for _ in ()).throw(errors.pop())  # type: ignore[method-assign]
    listener.connect(1)
    harness.run_until(lambda: len(harness.relay.admission) == 1)
    assert not [line for line in harness.log.lines if "cannot accept" in line]
    listener.close()


def test_peer_without_an_address_is_closed(harness: Harness) -> None:
    listener = Listener(harness)
    accept = listener.sock.accept
    gone = socket.socket()
    accepted = [(gone, None)]
    listener.sock.accept = lambda: accepted.pop() if accepted else accept()  # type: ignore[method-assign]
    listener.connect(1)
    harness.run_until(lambda: len(harness.relay.admission) == 1)
    assert gone.fileno() == -1
    listener.close()


def test_slow_newcomer_keeps_its_place_during_a_flood() -> None:
    with running(Limits(connections=20, handshake_threads=2)) as harness:
        slow = Caller(harness, "2.2.2.2")
        slow.step()
        slow.wait_until_returned()
        for _ in range(100):
            Caller(harness, "1.1.1.1")
        assert not slow.connection.closed
        assert {end.reason for end in harness.ends} == {CloseReason.EVICTED}
        assert len(harness.relay.admission) == 20
        slow.authenticate()


def test_connections_of_one_key_are_limited() -> None:
    with running(Limits(connections_per_key=1, handshake_threads=1)) as harness:
        first = harness.admit()
        second = harness.admit(first.identity)
        assert harness.reason_of(second.connection) is CloseReason.LIMIT_KEY
        assert not first.connection.closed


def test_full_relay_refuses_newcomers_with_a_reason() -> None:
    with running(Limits(connections=2, handshake_threads=2)) as harness:
        settled = [harness.listener() for _ in range(2)]
        sock = harness.connect_socket()
        assert sock.recv(100) == b""
        sock.close()
        assert not any(peer.connection.closed for peer in settled)
        assert harness.relay.totals.ended == {CloseReason.LIMIT_TOTAL: 1}
        assert [line for line in harness.log.lines if "refused" in line and "too many connections" in line]
