"""A relay as a process, and the examples that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.examples.programs import Programs
from tests.support.relay_process import RelayProcess, relay, start_relay

__all__ = ["programs", "relay", "start_relay"]


@pytest.fixture
def programs(tmp_path: Path, relay: RelayProcess) -> Iterator[Programs]:
    """The files and processes of one test."""
    programs = Programs(tmp_path, relay)
    with programs.started:
        yield programs
