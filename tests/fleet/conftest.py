"""Fleets as processes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.fault_injection import inject
from tests.support.fleet import EVERY_LINE, DirectoryServer, FleetProcesses, NewNodeAt, NodeAt, RoamingNode
from tests.support.relay_process import NewNode


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DirectoryServer]:
    """The directory that the tests of a module share."""
    server = DirectoryServer(tmp_path_factory.mktemp("directory"))
    yield server
    server.kill()


@pytest.fixture(scope="module")
def relay(server: DirectoryServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetProcesses]:
    """Three hosts in place of one relay."""
    fleet = FleetProcesses(tmp_path_factory.mktemp("fleet"), server.url, prefix=inject(*EVERY_LINE))
    yield fleet
    fleet.kill()


@pytest.fixture
def new_node(relay: FleetProcesses) -> Iterator[NewNode]:
    """Make nodes whose every connection goes to a random host."""
    with ExitStack() as nodes:

        def make(released: bool = False) -> RoamingNode:
            node = RoamingNode(relay, released)
            nodes.enter_context(node)
            return node

        yield make


@pytest.fixture
def new_node_at(relay: FleetProcesses) -> Iterator[NewNodeAt]:
    """Make nodes that choose the host of each connection."""
    with ExitStack() as nodes:

        def make(released: bool = False) -> NodeAt:
            node = NodeAt(relay.hosts[0].endpoint(), released)
            nodes.enter_context(node)
            return node

        yield make
