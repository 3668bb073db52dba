"""A closed connection ends within a bound, whatever the relay and the other node do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from offset_common.client import Tunnel, connect, driver, listen
from offset_common.errors import ConnectError, ConnectionEnded
from offset_common.identity import Identity
from offset_common.tickets import RelayTicket
from tests.support.client import client_threads, fake_relay, open_descriptors, start_listening, tunnel_pair
from tests.support.peer import Peer
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import RelayProcess

BOUND = 0.5  # seconds


@pytest.fixture(autouse=True)
def short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    wait_until(lambda: client_threads() == 0, "the end of the threads of earlier tests")
    monkeypatch.setattr(driver, "END_TIMEOUT", BOUND)


@contextmanager
def relay_that_never_reads() -> Iterator[tuple[RelayTicket, threading.Event]]:
    """Run a relay that reads nothing after an InitConnection, and never closes the connection.

    Yield its ticket and an event: the InitConnection has arrived.
    """
    arrived, done = threading.Event(), threading.Event()

    def serve(_: Peer) -> None:
        arrived.set()
        done.wait(PATIENCE)

    with fake_relay(serve) as ticket:
        try:
            yield ticket, arrived
        finally:
            done.set()


@pytest.fixture
def silent_relay() -> Iterator[Tunnel]:
    """A tunnel through such a relay."""
    with relay_that_never_reads() as (ticket, arrived):
        tunnel = connect(ticket, Identity.generate(), Identity.generate().public_key)
        assert arrived.wait(PATIENCE)
        yield tunnel


def test_closed_tunnel_releases_its_resources(silent_relay: Tunnel) -> None:
    threads, descriptors = client_threads(), open_descriptors()
    silent_relay.close(timeout=None)
    assert client_threads() == threads - 1
    assert open_descriptors() <= descriptors - 3


def test_closed_tunnel_ends_with_unsent_messages(silent_relay: Tunnel) -> None:
    with pytest.raises(TimeoutError):
        while True:
            silent_relay.send(bytes(500_000), timeout=0.2)
    start = time.monotonic()
    silent_relay.close(timeout=None)
    assert time.monotonic() - start > BOUND / 2
    assert client_threads() == 0


def test_closed_listener_ends_within_the_bound() -> None:
    with relay_that_never_reads() as (ticket, arrived):
        listener = listen(ticket, Identity.generate())
        assert arrived.wait(PATIENCE)
        listener.close(timeout=None)
        assert client_threads() == 0


def test_close_returns_after_its_own_timeout(silent_relay: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", PATIENCE)
    silent_relay.close(timeout=0.1)
    assert client_threads() == 1, "it waited for the end of the connection"
    silent_relay.abort()


def test_abort_ends_at_once(silent_relay: Tunnel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", PATIENCE)
    silent_relay.close(timeout=0)
    silent_relay.abort()
    assert client_threads() == 0
    with pytest.raises(ConnectionEnded):
        silent_relay.send(b"late")


def test_failed_end_to_end_handshake_holds_nothing(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", PATIENCE)
    home = Identity.generate()
    with start_listening(relay, home) as listener:
        silent = connect(relay.ticket, Identity.generate(), home.public_key)
        incoming = listener.receive(PATIENCE)
        before = client_threads()
        with pytest.raises(ConnectError):
            incoming.accept(end_to_end=True, timeout=0.3)
        assert client_threads() <= before
        silent.abort()


def test_orderly_end_does_not_wait_for_the_bound(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", 10 * PATIENCE)
    with tunnel_pair(relay) as (one, other):
        one.send(b"last")
        one.close(timeout=0)
        assert other.receive(PATIENCE) == b"last"
        other.close(timeout=0)
    wait_until(lambda: client_threads() == 0, "the end of all threads")
