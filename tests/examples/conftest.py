"""A relay as a process, and two keys that use it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.relay_process import RelayProcess, write_identity
from tests.examples.programs import Setting


@pytest.fixture(scope="module")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")))
    try:
        yield process
    finally:
        process.end()


@pytest.fixture
def setting(tmp_path: Path, relay: RelayProcess) -> Iterator[Setting]:
    setting = Setting(tmp_path, relay)
    try:
        yield setting
    finally:
        setting.end()
