"""serve: one caller never delays or ends another, and the server outlives the relay."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Optional

import pytest

from offset_common.client import (
    ConnectError,
    ConnectionEnded,
    ConnectRefused,
    Identity,
    RelayTicket,
    Server,
    Tunnel,
    backoff,
    connect,
    driver,
)
from offset_common.constants import HANDSHAKE_TIMEOUT
from tests.support.client import client_threads, echo, fill
from tests.support.node import Node
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import RelayProcess, StartRelay

SHORT = 0.3  # seconds


class Running:
    """A server in a thread."""

    def __init__(self, ticket: RelayTicket, handler: Callable[[Tunnel], object], **options: Any) -> None:
        self.ticket = ticket
        self.identity = Identity.generate()
        options.setdefault("allow", None)
        self.server = Server(ticket, self.identity, handler, **options)
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()

    def call(self, caller: Optional[Identity] = None, end_to_end: bool = True) -> Tunnel:
        """Connect to the server, again if the relay does not know it yet."""
        for _ in range(400):
            with contextlib.suppress(ConnectError):
                key = self.identity.public_key
                return connect(self.ticket, caller or Identity.generate(), key, end_to_end=end_to_end)
            time.sleep(0.02)
        raise AssertionError("the server cannot be reached")

    def answers(self, message: bytes) -> bool:
        """Return whether a new caller gets its message back."""
        with self.call() as tunnel:
            tunnel.send(message)
            return tunnel.receive(PATIENCE) == message


StartServer = Callable[..., Running]


@pytest.fixture
def start_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StartServer]:
    """Start servers for one test."""
    monkeypatch.setattr(driver, "END_TIMEOUT", SHORT)
    monkeypatch.setattr(backoff, "MAX_DELAY", SHORT)
    started: list[Running] = []

    def start(ticket: RelayTicket, handler: Callable[[Tunnel], object] = echo, **options: Any) -> Running:
        started.append(Running(ticket, handler, **options))
        return started[-1]

    yield start
    for running in started:
        running.server.stop()
        running.thread.join(PATIENCE)


def test_many_callers_are_served_at_the_same_time(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    with contextlib.ExitStack() as stack:
        tunnels = [stack.enter_context(running.call()) for _ in range(8)]
        for number, tunnel in enumerate(tunnels):
            tunnel.send(b"%d" % number)
        assert [tunnel.receive(PATIENCE) for tunnel in tunnels] == [b"%d" % n for n in range(8)]


def test_plain_caller_does_not_end_the_server(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    assert running.answers(b"first")
    with running.call(end_to_end=False) as plain:
        plain.send(b"this is not a handshake")
        with contextlib.suppress(ConnectionEnded):
            while True:
                plain.receive(PATIENCE)
    assert running.answers(b"second")


def test_crashing_caller_does_not_end_the_server(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    crashing = running.call()
    crashing.send(bytes(500_000))
    crashing.abort()
    assert running.answers(b"after the crash")


def test_silent_caller_delays_nobody(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    assert running.answers(b"warm")
    with running.call(end_to_end=False), running.call() as tunnel:
        # The silent caller's handshake takes 8 s to time out; the next caller is served before that.
        tunnel.send(b"at once")
        assert tunnel.receive(HANDSHAKE_TIMEOUT / 2) == b"at once"


def test_failing_handler_ends_only_its_caller(
    relay: RelayProcess, start_server: StartServer, caplog: pytest.LogCaptureFixture
) -> None:
    def fail_sometimes(tunnel: Tunnel) -> None:
        message = tunnel.receive(PATIENCE)
        if message == b"fail":
            raise FileNotFoundError("the handler's own file")
        tunnel.send(message)

    running = start_server(relay.ticket, fail_sometimes)
    with running.call() as tunnel:
        tunnel.send(b"fail")
        assert list(tunnel) == []
    assert running.answers(b"fine")
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.exc_info is not None for record in failures] == [True]


def test_server_comes_back_after_a_relay_restart(start_relay: StartRelay, start_server: StartServer) -> None:
    first = start_relay()
    running = start_server(first.ticket)
    assert running.answers(b"before")
    first.kill()
    start_relay(address=first.addresses[0], identity=first.identity)
    assert running.answers(b"after")


def test_only_allowed_keys_are_accepted(relay: RelayProcess, start_server: StartServer) -> None:
    friend = Identity.generate()
    called: list[bytes] = []
    running = start_server(
        relay.ticket, lambda tunnel: called.append(tunnel.peer_public_key), allow=[friend.public_key]
    )
    with running.call(friend):
        wait_until(lambda: called, "the call of the handler")
    with pytest.raises(ConnectRefused):
        connect(relay.ticket, Identity.generate(), running.identity.public_key, end_to_end=True)
    assert called == [friend.public_key]


def test_caller_counts_until_its_connection_has_ended(
    relay: RelayProcess, start_server: StartServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = threading.Event()

    def handle(tunnel: Tunnel) -> None:
        tunnel.receive(PATIENCE)
        fill(tunnel)  # the caller reads nothing, so the relay cannot finish
        returned.set()

    monkeypatch.setattr(driver, "END_TIMEOUT", PATIENCE)
    running = start_server(relay.ticket, handle, max_callers=1, end_to_end=False)
    with Node(relay.endpoint()) as node:
        wait_until(lambda: lingers(node, running, returned), "a caller that never finishes")
        second = connect(relay.ticket, Identity.generate(), running.identity.public_key)
        with second, pytest.raises(ConnectRefused):
            second.receive(PATIENCE)
    returned.clear()
    with Node(relay.endpoint()) as node:
        wait_until(lambda: lingers(node, running, returned), "a free place")


def lingers(node: Node, running: Running, returned: threading.Event) -> bool:
    """Send one message, and keep the connection open; return whether the handler got it."""
    node.connect(running.identity.public_key).send(b"the handler returns now")
    return returned.wait(0.5)


def test_stop_keeps_connected_callers(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    with running.call() as tunnel:
        running.server.stop()
        running.thread.join(PATIENCE)
        assert not running.thread.is_alive()
        tunnel.send(b"still here")
        assert tunnel.receive(PATIENCE) == b"still here"


def test_stop_during_a_retry_returns_soon(start_relay: StartRelay, start_server: StartServer) -> None:
    gone = start_relay()
    gone.kill()
    running = start_server(gone.ticket)
    running.server.stop()
    running.thread.join(PATIENCE)
    assert not running.thread.is_alive()


def test_served_callers_leave_nothing_behind(relay: RelayProcess, start_server: StartServer) -> None:
    running = start_server(relay.ticket)
    for number in range(5):
        assert running.answers(b"%d" % number)
    running.server.stop()
    wait_until(lambda: client_threads() == 0, "the end of all threads")
