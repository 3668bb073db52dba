"""A relay for all the tests of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.client.relays import RunningRelay


@pytest.fixture(scope="module")
def running() -> Iterator[RunningRelay]:
    relay = RunningRelay()
    yield relay
    relay.stop()
