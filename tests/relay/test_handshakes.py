"""The pool of handshake threads: what it says where the system does not start them."""

from __future__ import annotations

import threading

import pytest
from offset_common.relay.handshakes import HandshakePool

from offset_common.errors import ServiceError
from offset_common.identity import Identity
from offset_common.relay.limits import Limits
from offset_common.relay.log import Log
from offset_common.relay.server import Relay


@pytest.fixture
def few_threads(monkeypatch: pytest.MonkeyPatch) -> list[threading.Thread]:
    """Let the system start three threads and no more; return them."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def start_if_there_is_room(thread: threading.Thread) -> None:
        if len(started) == 3:
            raise RuntimeError("can't start new thread")
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_if_there_is_room)
    return started


def test_threads_that_cannot_be_started_are_a_line_for_the_operator_and_leave_nothing(
    few_threads: list[threading.Thread],
) -> None:
    before = threading.stack_size()
    with pytest.raises(ServiceError, match=r"cannot start 256 threads .* gave 3; .*--handshake-threads"):
        HandshakePool(Identity.generate(), 256, lambda job: None)
    assert len(few_threads) == 3
    assert not any(thread.is_alive() for thread in few_threads)
    assert threading.stack_size() == before


def test_a_relay_without_its_threads_ends_its_workers(few_threads: list[threading.Thread]) -> None:
    with pytest.raises(ServiceError, match="--handshake-threads"):
        Relay(Identity.generate(), [], Limits(), Log(None), workers=2)
    assert not any(thread.is_alive() for thread in few_threads)
