"""Relays that serve their status."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.conftest import harness
from tests.status.relays import RelayWithStatus

__all__ = ["harness", "relay"]


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayWithStatus]:
    """A relay with its status on a free port, shared by the tests of a module."""
    process = RelayWithStatus(tmp_path_factory.mktemp("relay"))
    yield process
    process.kill()
