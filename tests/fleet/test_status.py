"""The fleet, as the status of a host shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offset_common.status.relay_status import status_lines
from tests.status.relays import get
from tests.support.fault_injection import inject
from tests.support.fleet import AWAY, QUICK_BEATS, DirectoryServer, FleetProcesses, NewNodeAt
from tests.support.node import make_tunnel
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST, RelayProcess


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """Two hosts with a status each."""
    fleet = FleetProcesses(tmp_path, server.url, 2, ("--status", f"{LOCALHOST}:0"))
    yield fleet
    fleet.kill()


def fleet_of(host: RelayProcess) -> Any:
    """Return the fleet as a host shows it."""
    return get(host, "/status.json").json["fleet"]


def test_status_shows_hosts_homes_and_traffic(relay: FleetProcesses, new_node_at: NewNodeAt) -> None:
    pytest.importorskip("prometheus_client")
    home, arriving = relay.hosts
    node = new_node_at().at(home)
    near, far = make_tunnel(new_node_at().at(arriving), node, node.listen())
    near.send(bytes(50_000))
    assert far.receive() == bytes(50_000)
    wait_until(lambda: len(fleet_of(arriving)["hosts"]) == len(fleet_of(home)["hosts"]) == 1)
    at_home, elsewhere = fleet_of(home), fleet_of(arriving)
    assert (at_home["name"], at_home["directory"], at_home["listeners"]) == ("host-0", "present", 1)
    assert at_home["hosts"][0]["forwarded_from"] >= 1 and at_home["hosts"][0]["alive"]
    (other,) = elsewhere["hosts"]
    assert other["name"] == "host-0" and other["forwarded_to"] >= 1 and other["sent"] > 50_000
    metrics = get(arriving, "/metrics").text
    assert 'offset_relay_fleet_forwarded_total{direction="to",host="host-0"}' in metrics
    assert "offset_relay_fleet_directory_present 1.0" in metrics
    assert "offset_relay_fleet_hosts 2.0" in metrics
    lines = "\n".join(status_lines(get(arriving, "/status.json?list=1").json, colour=False))
    assert "this host: host-1" in lines and "host-0 at 127.0.0.1" in lines


def test_status_shows_that_the_directory_is_away(tmp_path: Path) -> None:
    server = DirectoryServer(tmp_path)
    options = ("--status", f"{LOCALHOST}:0")
    fleet = FleetProcesses(tmp_path, server.url, 1, options, prefix=inject(*QUICK_BEATS))
    try:
        server.kill()
        fleet.hosts[0].wait_for_line(AWAY)
        assert fleet_of(fleet.hosts[0])["directory"] == "away"
    finally:
        fleet.kill()
