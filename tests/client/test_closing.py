"""A closed connection ends within a bound, whatever the relay and the other node do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from offset_common.client import Tunnel, connect, driver, listen
from offset_common.errors import ConnectError, ConnectionEnded
from offset_common.identity import Identity
from tests.support.client import client_threads, fake_relay, open_descriptors, start_listening, tunnel_pair
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import RelayProcess

BOUND = 0.5  # seconds


@pytest.fixture(autouse=True)
def short_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", BOUND)


@pytest.fixture
def silent_relay() -> Iterator[Tunnel]:
    """A tunnel through a relay that reads nothing and never closes the connection."""
    done = threading.Event()
    key = Identity.generate().public_key
    try:
        with fake_relay(lambda _: done.wait(PATIENCE)) as ticket:
            yield connect(ticket, Identity.generate(), key)
            done.set()
    finally:
        done.set()


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
    done = threading.Event()
    with fake_relay(lambda _: done.wait(PATIENCE)) as ticket:
        listen(ticket, Identity.generate()).close(timeout=None)
        assert client_threads() == 0
        done.set()


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
