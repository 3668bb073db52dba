"""A relay whose rounds the test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.harness import Harness, running


@pytest.fixture
def harness() -> Iterator[Harness]:
    """A relay with the usual limits."""
    with running() as made:
        yield made
