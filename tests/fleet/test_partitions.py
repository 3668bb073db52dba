"""Hosts that are cut off: from the directory, or from each other; and hosts whose clocks differ."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from offset_common.wire.messages import InitRole
from tests.support.cable import Cable
from tests.support.fault_injection import inject
from tests.support.fleet import (
    AWAY,
    PRESENT,
    QUICK_BEATS,
    DirectoryServer,
    FleetProcesses,
    NewNodeAt,
    assert_all_reachable,
    entry_expires_after,
    listeners_at,
)
from tests.support.node import assert_joined, assert_listening, make_tunnel
from tests.support.process import free_port, wait_until
from tests.support.relay_process import LOCALHOST


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """One host for one test."""
    fleet = FleetProcesses(tmp_path, server.url, 1, prefix=inject(*QUICK_BEATS))
    yield fleet
    fleet.kill()


@pytest.fixture
def cables() -> Iterator[ExitStack]:
    """Closes the cables of a test."""
    with ExitStack() as cables:
        yield cables


@pytest.mark.slow
def test_host_without_the_directory_is_alone_until_it_is_back(
    server: DirectoryServer, relay: FleetProcesses, new_node_at: NewNodeAt, cables: ExitStack
) -> None:
    cable = Cable(server.port)
    cables.callback(cable.close)
    first = relay.hosts[0]
    url, prefix = f"valkey://{LOCALHOST}:{cable.port}/0", inject(*QUICK_BEATS, entry_expires_after(5))
    second = relay.add(relay.start("second", url=url, prefix=prefix))
    listening = listeners_at(relay, new_node_at)
    tunnel = make_tunnel(new_node_at().at(first), *listening[1])
    cable.cut()
    second.wait_for_line(AWAY)
    for (node, listener), host in zip(listening, relay.hosts):
        assert_listening(new_node_at().at(host), node, listener)
    node, listener = listening[1]
    assert node.is_reached_from(first, listener), "it is alive until its entry expires"
    wait_until(lambda: len(server.keys("host")) == 1, "the end of its entry")
    wait_until(lambda: not node.is_reached_from(first, listener), "a connect that is refused")
    assert_joined(*tunnel)
    cable.mend()
    second.wait_for_line(PRESENT, count=2)
    assert second.count_lines(AWAY) == 1 and first.count_lines(AWAY) == 0
    assert_all_reachable(relay, new_node_at, listeners_at(relay, new_node_at))
    assert_joined(*tunnel)


def test_brief_network_failure_only_delays_messages(
    relay: FleetProcesses, new_node_at: NewNodeAt, cables: ExitStack
) -> None:
    port = free_port()
    cable = Cable(port)
    cables.callback(cable.close)
    first = relay.hosts[0]
    second = relay.add(relay.start("second", "--fleet-address", f"{LOCALHOST}:{cable.port}", port=port))
    node = new_node_at().at(second)
    listener = node.listen()
    near, far = make_tunnel(new_node_at().at(first), node, listener)
    cable.cut()
    near.send(b"there")
    far.send(b"back")
    caller = new_node_at().at(first)
    late = caller.connect(node.public_key)
    late.send(b"early")
    assert_listening(new_node_at().at(second), node, listener)
    cable.mend()
    assert far.receive() == b"there" and near.receive() == b"back"
    assert listener.incoming() == caller.public_key
    assert node.accept(caller.public_key).receive() == b"early"


@pytest.mark.slow
def test_host_that_does_not_answer_is_tried_twice(
    relay: FleetProcesses, new_node_at: NewNodeAt, cables: ExitStack
) -> None:
    silent = cables.enter_context(socket.create_server((LOCALHOST, 0), backlog=0))
    for _ in range(2):  # then its queue is full, and the system drops further connections
        sock = cables.enter_context(socket.socket())
        sock.setblocking(False)
        sock.connect_ex(silent.getsockname())
    address = f"{LOCALHOST}:{silent.getsockname()[1]}"
    second = relay.add(relay.start("second", "--fleet-address", address))
    node = new_node_at().at(second)
    listener = node.open().init(InitRole.LISTEN)
    wait_until(lambda: node.is_reached_from(second, listener))
    patience = inject("offset_common.fleet.dialing:CONNECT_TIMEOUT=1.0")
    third = relay.add(relay.start("third", prefix=patience))
    began = time.monotonic()
    near = new_node_at().at(third).connect(node.public_key)
    assert near.messages_until_end() == []
    assert time.monotonic() - began > 1.9
    end = third.wait_for_end_of(near)
    assert end.reason == "no listener for that key the host second: no answer within 1 s"


def test_clocks_of_hosts_may_differ(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    for name, seconds, uptime in (("ahead", 3600, 10**6), ("behind", -3600, 0)):
        relay.add(relay.start(name, prefix=inject(f"time:time+{seconds}", f"time:monotonic+{uptime}")))
    exact, ahead, behind = relay.hosts
    assert_all_reachable(relay, new_node_at, listeners_at(relay, new_node_at))
    node = new_node_at()
    listener = node.at(exact).listen()
    for host in (ahead, behind, exact, behind, ahead):
        older, listener = listener, node.at(host).listen()
        older.wait_for_close()  # the newest listener wins
    assert_all_reachable(relay, new_node_at, [(node, listener)])
