"""The settings and fixtures that all tests share."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Other programs may slow a machine down at any time, so generated examples have no time limits.
settings.register_profile("no limits", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("no limits")
# Relays that the tests start must send no messages to a service manager that runs the tests.
os.environ.pop("NOTIFY_SOCKET", None)


@pytest.fixture(autouse=True, scope="session")
def interrupts() -> Iterator[None]:
    """Restore the default action of SIGINT and SIGHUP in the processes that tests start; nohup ignores them.

    A handler here becomes the default action in a new process, but an ignored signal stays ignored.
    """
    ignored = [each for each in (signal.SIGINT, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.default_int_handler)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def short_path() -> Iterator[Path]:
    """A directory for sockets: their paths have at most 107 bytes, and those of `tmp_path` may be longer."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """After the body of a test, call `check_end` of its fixtures: the test fails, and not its cleanup."""
    result = yield
    for value in pyfuncitem.funcargs.values():
        if hasattr(value, "check_end"):
            value.check_end()
    return result


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the slow tests first: at the end, one of them would leave the other processes idle."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
