"""A relay as a process, and two keys that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forward.programs import Setting
from tests.support.relay_process import RelayProcess, relay, start_relay

__all__ = ["relay", "setting", "start_relay"]


@pytest.fixture
def setting(tmp_path: Path, relay: RelayProcess) -> Iterator[Setting]:
    """The files and programs of one test."""
    setting = Setting(tmp_path, relay)
    yield setting
    setting.close()
