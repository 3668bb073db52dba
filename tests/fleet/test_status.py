"""The fleet, as the status of a host shows it."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offset_common.status.relay_status import status_lines
from tests.support.fleet import DirectoryServer, FleetProcesses, NewNodeAt
from tests.support.node import make_tunnel
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import LOCALHOST, RelayProcess


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """Two hosts with a status each."""
    fleet = FleetProcesses(tmp_path, server.url, 2, ("--status", f"{LOCALHOST}:0"))
    yield fleet
    fleet.kill()


def get(host: RelayProcess, path: str) -> str:
    """Return what the status server of a host answers."""
    connection = http.client.HTTPConnection(LOCALHOST, host.status_port, timeout=PATIENCE)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def fleet_of(host: RelayProcess) -> Any:
    """Return the fleet as a host shows it."""
    return json.loads(get(host, "/status.json"))["fleet"]


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
    metrics = get(arriving, "/metrics")
    assert 'offset_relay_fleet_forwarded_total{direction="to",host="host-0"}' in metrics
    assert "offset_relay_fleet_directory_present 1.0" in metrics
    assert "offset_relay_fleet_hosts 2.0" in metrics
    lines = "\n".join(status_lines(json.loads(get(arriving, "/status.json?list=1")), colour=False))
    assert "this host: host-1" in lines and "host-0 at 127.0.0.1" in lines


def test_status_shows_that_the_directory_is_away(tmp_path: Path) -> None:
    server = DirectoryServer(tmp_path)
    fleet = FleetProcesses(tmp_path, server.url, 1, ("--status", f"{LOCALHOST}:0"))
    try:
        server.kill()
        fleet.hosts[0].wait_for_line("directory away")
        assert fleet_of(fleet.hosts[0])["directory"] == "away"
    finally:
        fleet.kill()
