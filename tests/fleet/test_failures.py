"""A fleet survives failures of hosts and of the directory: real hosts, real servers."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from offset_common.wire.messages import InitRole
from tests.service.relays import UpgradingRelay
from tests.support.fault_injection import inject
from tests.support.fleet import (
    AWAY,
    EVERY_LINE,
    PRESENT,
    QUICK_BEATS,
    SERVERS,
    DirectoryServer,
    FleetProcesses,
    NewNodeAt,
    NodeAt,
    assert_all_reachable,
    entry_expires_after,
    listeners_at,
    needs_server,
)
from tests.support.node import assert_joined, assert_listening, make_tunnel
from tests.support.process import free_port, wait_until
from tests.support.relay_process import LOCALHOST

pytestmark = pytest.mark.slow

PATIENT = ("offset_common.fleet.library:TIMEOUT=6.0", "offset_common.fleet.directory:FIND_TIMEOUT=6.0")
"""Changes for `inject`: a host waits longer for the directory."""


@pytest.fixture(params=SERVERS or [""])
def server(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[DirectoryServer]:
    """A directory for one test, on each kind of server."""
    server = DirectoryServer(tmp_path, request.param or needs_server())
    yield server
    server.kill()


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """Two hosts for one test."""
    fleet = FleetProcesses(tmp_path, server.url, 2, make=UpgradingRelay, prefix=inject(*QUICK_BEATS))
    yield fleet
    fleet.kill()


def test_dead_host_is_known_to_all(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    other = relay.add(relay.start("other", prefix=inject(*QUICK_BEATS, *EVERY_LINE)))
    dying = relay.add(relay.start("dying", prefix=inject(*QUICK_BEATS, entry_expires_after(3))))
    node = new_node_at().at(dying)
    node.listen()
    dying.stop(signal.SIGKILL)

    def reason() -> str:
        near = new_node_at().at(other).connect(node.public_key)
        assert near.messages_until_end() == []
        return other.wait_for_end_of(near).reason

    assert reason() == "no listener for that key the host dying: Connection refused"
    wait_until(lambda: reason() == "no listener for that key", "the end of attempts to reach the dead host")
    listener = node.at(other).listen()
    assert_listening(new_node_at().at(other), node, listener)


def test_hosts_continue_alone_without_the_directory(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    listening = listeners_at(relay, new_node_at)
    gone = new_node_at().at(relay.hosts[0])
    gone_listener = gone.listen()
    caller = new_node_at().at(relay.hosts[0])
    ends = make_tunnel(caller, listening[1][0], listening[1][1])
    server.kill()
    for host in relay.hosts:
        host.wait_for_line(AWAY)
    assert_joined(*ends)  # a tunnel between two hosts
    for (node, listener), host in zip(listening, relay.hosts):
        assert_listening(new_node_at().at(host), node, listener)
    gone_listener.close()
    late = new_node_at().at(relay.hosts[1])
    listening.append((late, late.listen()))  # listens while the directory is unreachable
    server.start()
    for host in relay.hosts:
        host.wait_for_line(PRESENT, count=2)
        assert host.count_lines(AWAY) == 1
    wait_until(lambda: len(server.keys("listener")) == 3, "three listeners in the directory")
    assert_all_reachable(relay, new_node_at, listening)
    near = new_node_at().at(relay.hosts[1]).connect(gone.public_key)
    assert near.messages_until_end() == []
    assert relay.failures == []


def test_slow_directory_delays_nobody_at_one_host(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    for name in ("first", "second"):
        relay.add(relay.start(name, prefix=inject(*QUICK_BEATS, *PATIENT)))
    *_, first, second = relay.hosts
    listening = listeners_at(relay, new_node_at)
    node, listener = listening[relay.hosts.index(first)]
    near, far = make_tunnel(new_node_at().at(second), node, listener)
    server.signal(signal.SIGSTOP)
    began = time.monotonic()
    caller = new_node_at().at(first).connect(node.public_key)
    assert listener.incoming() == caller.channel.public_key
    assert_joined(near, far)
    assert time.monotonic() - began < 5, "something waited for the directory, which takes 6 s"
    elsewhere = new_node_at().at(second).connect(node.public_key)
    assert elsewhere.messages_until_end() == []
    for host in relay.hosts:
        host.wait_for_line(AWAY)
    server.signal(signal.SIGCONT)
    for host in relay.hosts:
        host.wait_for_line(PRESENT, 2)
    assert_all_reachable(relay, new_node_at, listening)


def test_full_directory_keeps_what_it_has(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    listening = listeners_at(relay, new_node_at)
    server.ask("CONFIG", "SET", "maxmemory", "1")
    for host in relay.hosts:
        host.wait_for_line("^warning: directory refuses entries")
    local = new_node_at().at(relay.hosts[0])
    local_listener = local.listen()
    assert_listening(new_node_at().at(relay.hosts[0]), local, local_listener)
    assert_all_reachable(relay, new_node_at, listening)
    server.ask("CONFIG", "SET", "maxmemory", "0")
    for host in relay.hosts:
        host.wait_for_line("^directory accepts entries")
        assert host.count_lines("^warning: directory refuses entries") == 1
    assert_all_reachable(relay, new_node_at, [*listening, (local, local_listener)])


def test_directory_that_forgets_everything_is_filled_again(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    listening = listeners_at(relay, new_node_at)
    server.ask("FLUSHALL")
    wait_until(lambda: len(server.keys("listener")) == 2, "both listeners in the directory")
    wait_until(lambda: len(server.keys("host")) == 2, "both hosts in the directory")
    assert_all_reachable(relay, new_node_at, listening)


def test_host_that_stops_takes_its_entries_with_it(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    listeners_at(relay, new_node_at)
    relay.hosts[0].stop_cleanly()
    assert len(server.keys("host")) == 1 and len(server.keys("listener")) == 1


def test_restarted_host_has_a_new_fleet_key(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    before = server.keys("host")
    relay.hosts[0].stop_cleanly()
    relay.hosts[0] = relay.start("host-0")
    relay.wait_until_complete()
    assert len(server.keys("host") - before) == 1
    assert_all_reachable(relay, new_node_at, listeners_at(relay, new_node_at))


def test_upgrade_in_place_loses_no_tunnel_and_no_host(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    first, second = relay.hosts
    assert isinstance(first, UpgradingRelay)
    node = new_node_at().at(second)
    near, far = make_tunnel(new_node_at().at(first), node, node.listen())
    first.upgrade()
    first.wait_for_line(PRESENT, count=2)
    assert_joined(near, far)
    wait_until(lambda: len(server.keys("host")) == 2, "two hosts in the directory")
    assert_all_reachable(relay, new_node_at, listeners_at(relay, new_node_at))
    assert_joined(near, far)


def test_connect_finds_a_listener_that_moved_to_another_host(
    relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    first, second = relay.hosts
    assert isinstance(first, UpgradingRelay)
    node, caller = new_node_at(), new_node_at()
    listener = node.at(first).listen()
    first.upgrade()
    assert listener.messages_until_end() == []
    near = caller.at(first).connect(node.public_key)
    near.send(b"early")
    listener = node.at(second).open().init(InitRole.LISTEN)
    assert listener.incoming() == caller.public_key
    far = node.accept(caller.public_key)
    assert far.receive() == b"early"
    assert_joined(near, far)


def test_host_that_others_cannot_reach_serves_its_own_peers(
    relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    nowhere = f"{LOCALHOST}:{free_port()}"
    cut_off = relay.add(relay.start("cut-off", "--fleet-address", nowhere))
    node, other = new_node_at().at(cut_off), new_node_at().at(relay.hosts[0])
    listener, other_listener = node.open().init(InitRole.LISTEN), other.listen()
    wait_until(lambda: node.is_reached_from(cut_off, listener))
    near = new_node_at().at(relay.hosts[0]).connect(node.public_key)
    assert near.messages_until_end() == []
    end = relay.hosts[0].wait_for_end_of(near)
    assert end.reason == "no listener for that key the host cut-off: Connection refused"
    assert_listening(new_node_at().at(cut_off), node.at(cut_off), listener)
    assert_listening(new_node_at().at(cut_off), other, other_listener)


def test_sentinel_names_a_new_server(tmp_path: Path) -> None:
    program = needs_server()
    (tmp_path / "replica").mkdir()
    with ExitStack() as started:
        old = DirectoryServer(tmp_path, options=("--repl-diskless-sync-delay", "0"))
        started.callback(old.kill)
        replica = DirectoryServer(tmp_path / "replica", options=("--replicaof", LOCALHOST, str(old.port)))
        started.callback(replica.kill)
        # A sentinel looks for replicas at its start, and then only every 10 s.
        wait_until(lambda: replica.ask("ROLE")[3] == b"connected", "replication")
        port = free_port()
        file = tmp_path / "sentinel.conf"
        file.write_text(
            f"port {port}\nbind {LOCALHOST}\nsentinel monitor main {LOCALHOST} {old.port} 1\n"
            "sentinel down-after-milliseconds main 1000\n"
        )
        command = [program, str(file), "--sentinel"]
        sentinel = started.enter_context(subprocess.Popen(command, stdout=subprocess.DEVNULL))
        started.callback(sentinel.kill)
        sentinels = f"{LOCALHOST}:{free_port()},{LOCALHOST}:{port}"  # the first one is down
        fleet = FleetProcesses(tmp_path, f"valkey+sentinel://{sentinels}/main", 2)
        started.callback(fleet.kill)
        node = NodeAt(fleet.hosts[0].endpoint())
        started.enter_context(node)
        listener = node.listen()
        replica.ask("CONFIG", "SET", "replica-read-only", "no")
        replica.ask("FLUSHALL")  # entries that it has missed
        old.kill()

        def is_over() -> bool:
            listener.send_keepalive()
            with contextlib.suppress(Exception):  # a server that changes its role closes its connections
                if replica.ask("ROLE")[0] == b"master":
                    return all(node.is_reached_from(host, listener) for host in fleet.hosts)
            return False

        wait_until(is_over, "the fail-over")
        for host in fleet.hosts:
            caller = started.enter_context(NodeAt(host.endpoint()))
            assert_listening(caller, node, listener)
