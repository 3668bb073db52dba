"""The files of deploy/fleet: three hosts behind HAProxy, with real processes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.documents import ROOT
from tests.support.fleet import DirectoryServer, FleetProcesses
from tests.support.haproxy import haproxy, needs_haproxy
from tests.support.node import Endpoint, Node, assert_listening
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST

DEPLOY = ROOT / "deploy" / "fleet"


@pytest.fixture
def relay(server: DirectoryServer, tmp_path: Path) -> Iterator[FleetProcesses]:
    """Three hosts that trust a balancer on this machine."""
    options = ("--status", f"{LOCALHOST}:0", "--proxy-protocol", f"{LOCALHOST}/32")
    fleet = FleetProcesses(tmp_path, server.url, 3, options)
    yield fleet
    fleet.kill()


@needs_haproxy
def test_nodes_meet_behind_the_documented_balancer(relay: FleetProcesses, tmp_path: Path) -> None:
    text = (DEPLOY / "haproxy.cfg").read_text("utf-8")
    for name, host in zip(("one", "two", "three"), relay.hosts):
        server = f"server {name} {LOCALHOST}:{host.port} check port {host.status_port}"
        text, count = re.subn(rf"server {name} {name}:4567", server, text)
        assert count == 1
    with haproxy(tmp_path, text) as port, ExitStack() as nodes:
        endpoint = Endpoint((LOCALHOST, port), relay.public_key)

        def node() -> Node:
            return nodes.enter_context(Node(endpoint))

        def is_up() -> bool:
            try:
                return bool(node().open())
            except Exception:
                return False

        wait_until(is_up, "a connection through the balancer")
        callee = node()
        listener = callee.listen()
        for _ in range(6):
            assert_listening(node(), callee, listener)
    assert any("forwarded to its home" in line for line in relay.lines)
    assert relay.failures == []


def test_compose_file_has_valid_options() -> None:
    text = (DEPLOY / "compose.yaml").read_text("utf-8")
    page = (ROOT / "strelay.py").read_text("utf-8")
    options = re.findall(r"- (--[a-z-]+)=(\S+)", text)
    assert len(options) == 3 * 5
    for name, _ in options:
        assert f"{name} " in page
    for name in ("one", "two", "three"):
        assert ("--fleet-address", f"{name}:4568") in options
