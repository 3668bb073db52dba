"""A relay of which one part cannot be made: it releases what the other parts hold."""

from __future__ import annotations

import socket
import threading
from typing import Callable

import pytest

from offset_common.errors import ServiceError
from offset_common.identity import Identity
from offset_common.relay.homes import Homes
from offset_common.relay.limits import Limits
from offset_common.relay.log import RelayLog
from offset_common.relay.policy import Policy
from offset_common.relay.server import Relay
from tests.support.process import PATIENCE

CLOSED: list[str] = []


class RecordingPolicy(Policy):
    """A policy that records its end."""

    def close(self) -> None:
        CLOSED.append("policy")


class RecordingHomes(Homes):
    """Homes that record their end."""

    def close(self) -> None:
        CLOSED.append("homes")


def make_relay(make_homes: Callable[[Relay], Homes], sockets: list[socket.socket]) -> None:
    """Make a relay with these parts."""
    CLOSED.clear()
    Relay(
        Identity.generate(),
        sockets,
        Limits(),
        RelayLog(None),
        make_policy=lambda relay: RecordingPolicy(),
        make_homes=make_homes,
    )


def wait_for_new_threads(before: list[threading.Thread]) -> None:
    """Wait until all threads that were started since then have ended."""
    for thread in set(threading.enumerate()) - set(before):
        thread.join(PATIENCE)
        assert not thread.is_alive(), thread


def test_relay_without_its_fleet_ends_its_other_parts() -> None:
    def no_homes(relay: Relay) -> Homes:
        raise ServiceError("no directory")

    before, listening = threading.enumerate(), socket.socket()
    with pytest.raises(ServiceError, match="no directory"):
        make_relay(no_homes, [listening])
    assert listening.fileno() == -1
    assert CLOSED == ["policy"]
    wait_for_new_threads(before)


def test_relay_without_its_sockets_ends_its_other_parts() -> None:
    before, closed = threading.enumerate(), socket.socket()
    closed.close()
    with pytest.raises(ValueError, match="Invalid file"):
        make_relay(lambda relay: RecordingHomes(), [closed])
    assert CLOSED == ["homes", "policy"]
    wait_for_new_threads(before)
