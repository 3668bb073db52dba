"""A relay whose rounds the test runs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.relay.harness import Harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    """A relay with the usual limits; the test ends with its `check_end` (tests/conftest.py)."""
    made = Harness()
    yield made
    made.release()
