"""The options of strelay.py: each sets its own limit, and a wrong value is refused."""

from __future__ import annotations

import os
import resource
import sys
from unittest.mock import Mock

import pytest

import strelay
from offset_common.command_line import parse
from offset_common.commands import descriptors, relay_options
from offset_common.errors import UsageError
from offset_common.relay.limits import KIB, MIB, Limits

COUNTS = {
    "--per-key": "connections_per_key",
    "--unproven": "unauthenticated",
    "--waiting": "pending_per_key",
    "--waiting-for": "pending_per_listener",
    "--tunnels": "tunnels_per_key",
    "--stall": "stall",
    "--accepts": "accepts_per_second",
    "--handshake-threads": "handshake_threads",
    "--ipv6-prefix": "ipv6_prefix",
}


def read_limits(*options: str) -> Limits:
    """Return the limits that a command line sets."""
    return relay_options.read_limits(parse(strelay.__doc__, ["-i", "file", "-l", "address", *options], "1"))


@pytest.mark.parametrize(("option", "field"), COUNTS.items(), ids=COUNTS)
def test_option_sets_its_own_limit(option: str, field: str) -> None:
    assert read_limits(option, "7") == read_limits()._replace(**{field: 7})


def test_sizes_are_in_mib_and_kib() -> None:
    limits = read_limits("--buffers", "3", "--socket-buffer", "5")
    assert (limits.buffers, limits.socket_buffer) == (3 * MIB, 5 * KIB)


def test_connections_bound_the_automatic_limits() -> None:
    limits = read_limits("--connections", "40")
    assert limits.connections == 40
    assert (limits.connections_per_address, limits.connections_per_key) == (30, 15)
    assert read_limits("--connections", "40", "--per-address", "7").connections_per_address == 7


def test_reading_options_leaves_the_descriptor_limit() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, before[1]))
    try:
        assert read_limits().connections == 400
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (500, before[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_unlimited_descriptors_allow_many_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    endless = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)  # RLIM_INFINITY is a negative number
    monkeypatch.setattr(resource, "getrlimit", lambda which: endless)
    assert read_limits().connections == descriptors.UNLIMITED * 4 // 5


def test_defaults_apply_where_limits_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    forbidden = Mock(side_effect=PermissionError(1, "Operation not permitted"))
    monkeypatch.setattr(resource, "getrlimit", forbidden)
    monkeypatch.setattr(resource, "setrlimit", forbidden)
    monkeypatch.setattr(os, "sched_getaffinity", forbidden)
    assert descriptors.raise_descriptor_limit() == 1024
    assert relay_options.available_cores() == (os.cpu_count() or 1)


def test_relay_uses_one_process_without_seqpacket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert relay_options.read_workers({"--workers": "auto"}) == 1
    with pytest.raises(UsageError, match="--workers 2 is not possible on this system; use --workers 1"):
        relay_options.read_workers({"--workers": "2"})


def test_automatic_workers_do_not_exceed_the_maximum(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(1024))
    assert relay_options.read_workers({"--workers": "auto"}) == relay_options.MAX_WORKERS


def test_host_of_a_fleet_keeps_descriptors_for_the_others() -> None:
    assert read_limits("--fleet", "valkey://10.0.0.9").connections == read_limits().connections // 2
