"""A fleet on a cluster of servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from offset_common.fleet.entries import Entries
from tests.support.fault_injection import inject
from tests.support.fleet import (
    QUICK_BEATS,
    DirectoryServer,
    FleetProcesses,
    NewNodeAt,
    assert_all_reachable,
    listeners_at,
)
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST


@pytest.fixture(params=["ip", "unknown-endpoint"])
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[DirectoryServer]]:
    """A cluster of three servers, which name each other's addresses or only their ports."""
    options = ("--cluster-enabled", "yes", "--cluster-preferred-endpoint-type", request.param)
    hasty = ("--cluster-node-timeout", "1000")  # a new cluster waits for as long before it serves
    with ExitStack() as started:
        servers = []
        for number in range(3):
            (tmp_path / str(number)).mkdir()
            servers.append(DirectoryServer(tmp_path / str(number), options=(*options, *hasty)))
            started.callback(servers[-1].kill)
        for number, server in enumerate(servers):
            server.ask("CLUSTER", "ADDSLOTSRANGE", 5462 * number, min(5462 * number + 5461, 16383))
            server.ask("CLUSTER", "MEET", LOCALHOST, servers[0].port)

        def is_complete() -> bool:
            return all(b"cluster_state:ok" in server.ask("CLUSTER", "INFO") for server in servers)

        wait_until(is_complete, "a cluster")
        for server in servers:
            server.ask("CONFIG", "SET", "cluster-node-timeout", 15_000)
        yield servers


def move_slot(servers: list[DirectoryServer], slot: int) -> Iterator[None]:
    """Move the slot that has keys to another server; stop after every two keys."""
    source, target, *_ = sorted(servers, key=lambda server: -len(server.ask("KEYS", "*")))
    old, new = (server.ask("CLUSTER", "MYID") for server in (source, target))
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", old)
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", new)
    yield
    while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, 2):
        source.ask("MIGRATE", LOCALHOST, target.port, "", 0, 5000, "KEYS", *keys)
        yield
    for server in (target, source):  # the third one learns it from these
        server.ask("CLUSTER", "SETSLOT", slot, "NODE", new)


@pytest.fixture
def relay(cluster: list[DirectoryServer], tmp_path: Path) -> Iterator[FleetProcesses]:
    """Two hosts; the first server of the cluster is enough to find the others."""
    url = f"valkey+cluster://{LOCALHOST}:{cluster[0].port}"
    fleet = FleetProcesses(tmp_path, url, 2, prefix=inject(*QUICK_BEATS))
    yield fleet
    fleet.kill()


@pytest.mark.slow
def test_fleet_uses_one_slot_and_follows_it(
    cluster: list[DirectoryServer], relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    listening = listeners_at(relay, new_node_at)
    slot = cluster[0].ask("CLUSTER", "KEYSLOT", Entries(relay.public_key).any_key)
    assert sorted(len(server.ask("KEYS", "*")) for server in cluster)[:2] == [0, 0], "more than one slot"
    for _ in range(2):
        for _ in move_slot(cluster, slot):
            assert_all_reachable(relay, new_node_at, [*listening, *listeners_at(relay, new_node_at)])
            for _, listener in listening:
                listener.send_keepalive()
        time.sleep(1)  # two heartbeats
    assert_all_reachable(relay, new_node_at, listening)
    assert [line for line in relay.lines if line.startswith("warning: directory")] == []
    assert relay.failures == []
