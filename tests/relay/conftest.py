"""A relay whose rounds the test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.rig import Rig, running


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A relay with the usual limits."""
    with running() as made:
        yield made
