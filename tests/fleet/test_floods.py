"""Strangers at the port for hosts, and floods of forwarded peers: others are still served."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest

from offset_common.relay.log import LINES_PER_ADDRESS
from tests.support.fleet import DirectoryServer, FleetProcesses, NewNodeAt, fleet_address
from tests.support.node import assert_listening
from tests.support.peer import RESET, TIMEOUT
from tests.support.process import wait_until
from tests.support.relay_process import RelayProcess
from tests.support.swarm import Swarm, count_open

CONNECTIONS = 40
FAILED = "^warning: host connection failed"


@pytest.fixture(scope="module")
def relay(server: DirectoryServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """Two small hosts that the tests share."""
    options = ("--connections", str(CONNECTIONS))
    fleet = FleetProcesses(tmp_path_factory.mktemp("fleet"), server.url, 2, options)
    yield fleet
    fleet.kill()


def was_closed(sock: socket.socket) -> bool:
    """Return whether a host has closed a connection on which it sent nothing but its version."""
    with contextlib.suppress(BlockingIOError):
        while sock.recv(1024):
            pass
        return True
    return False


def break_connections(host: RelayProcess, count: int, source: str) -> None:
    """Send something that is not Offset to the port for hosts, several times."""
    for _ in range(count):
        with socket.create_connection(fleet_address(host), TIMEOUT, (source, 0)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            while sock.recv(1024):
                pass


def test_silent_strangers_keep_no_host_out(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    first, second = relay.hosts
    node, other = new_node_at().at(first), new_node_at().at(second)
    listener, other_listener = node.listen(), other.listen()
    with contextlib.ExitStack() as opened:
        strangers = []
        for _ in range(2 * CONNECTIONS):
            strangers.append(opened.enter_context(socket.create_connection(fleet_address(first), TIMEOUT)))
            strangers[-1].setblocking(False)
        wait_until(lambda: any(map(was_closed, strangers)), "a full host")
        assert_listening(new_node_at().at(second), node, listener)  # to the host that is full
        assert_listening(new_node_at().at(first), other, other_listener)  # and from it


def test_lost_connection_of_a_stranger_causes_no_warning(relay: FleetProcesses) -> None:
    host = relay.hosts[0]
    for _ in range(3):
        with socket.create_connection(fleet_address(host), TIMEOUT, ("127.0.0.2", 0)) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    break_connections(host, 1, "127.0.0.2")
    host.wait_for_line(f"{FAILED}: address=127.0.0.2:")
    assert host.count_lines(f"{FAILED}: address=127.0.0.2:") == 1


def test_failures_are_collapsed_by_address(relay: FleetProcesses) -> None:
    host = relay.hosts[0]
    break_connections(host, LINES_PER_ADDRESS + 5, "127.0.0.3")
    break_connections(host, 1, "127.0.0.4")
    host.wait_for_line(f"{FAILED}: address=127.0.0.4:")
    assert host.count_lines(f"{FAILED}: address=127.0.0.3:") == LINES_PER_ADDRESS


def test_flood_of_one_address_leaves_room_between_hosts(
    relay: FleetProcesses, new_node_at: NewNodeAt
) -> None:
    first, second = relay.hosts
    node, other = new_node_at().at(second), new_node_at().at(first)
    listener, other_listener = node.listen(), other.listen()
    with (
        contextlib.closing(Swarm(first.endpoint())) as flood,
        contextlib.closing(Swarm(second.endpoint())) as there,
    ):
        target = there.listen(source="127.0.0.5")
        held = flood.connect(2 * CONNECTIONS, target.keys.public_key, source="127.0.0.5")
        assert there.run(lambda: len(target.messages) >= CONNECTIONS // 2, TIMEOUT)
        assert count_open(held) >= CONNECTIONS // 2
        assert_listening(new_node_at().at(first), node, listener)
        assert_listening(new_node_at().at(second), other, other_listener)
    assert relay.failures == []
