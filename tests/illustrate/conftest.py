"""A recorded run, its story and its page, shared by all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from offset_common.illustrate.page import render
from offset_common.illustrate.recorder import Recorder
from offset_common.illustrate.recording import Recording
from offset_common.illustrate.story import Story, tell
from tests.support.relay_process import RelayProcess, write_identity

TIMEOUT = 60.0  # seconds for each step


@pytest.fixture(scope="session")
def relay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RelayProcess]:
    process = RelayProcess(write_identity(tmp_path_factory.mktemp("relay")))
    yield process
    process.kill()


@pytest.fixture(scope="session")
def recording(relay: RelayProcess) -> Recording:
    return Recorder(relay.ticket, TIMEOUT).run()


@pytest.fixture(scope="session")
def story(recording: Recording) -> Story:
    return tell(recording)


@pytest.fixture(scope="session")
def page(story: Story) -> str:
    return render(story)
