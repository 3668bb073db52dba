"""A relay as a process, and nodes that use it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Callable

import pytest

from tests.end_to_end.peer import Node
from tests.end_to_end.relay_process import RelayProcess, write_identity

StartRelay = Callable[..., RelayProcess]
NewNode = Callable[..., Node]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    """A relay that the tests of a module share."""
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")))
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def start_relay(tmp_path: Path) -> Iterator[StartRelay]:
    """Start a relay of the test's own; it is stopped in order afterwards."""
    started: list[RelayProcess] = []

    def start(address: str = "127.0.0.1:0", options: Sequence[str] = ()) -> RelayProcess:
        started.append(RelayProcess(write_identity(tmp_path), address, options))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.end()


@pytest.fixture
def new_node(relay: RelayProcess) -> Iterator[NewNode]:
    """Make nodes of the module's relay; their connections are closed afterwards."""
    with ExitStack() as nodes:

        def make(original: bool = False) -> Node:
            return nodes.enter_context(Node(relay.place(), original))

        yield make
