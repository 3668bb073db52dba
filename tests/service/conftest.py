"""Relays that a service manager or an operator's signals control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.service.manager import Manager
from tests.service.relays import UpgradingRelay
from tests.support.relay_process import start_relay, write_identity

__all__ = ["start_relay"]

StartUpgrading = Callable[..., UpgradingRelay]


@pytest.fixture
def manager(short_path: Path) -> Iterator[Manager]:
    """A service manager that collects notifications."""
    with Manager(str(short_path / "notify")) as manager:
        yield manager


@pytest.fixture
def start_upgrading(tmp_path: Path) -> Iterator[StartUpgrading]:
    """Start relays that are upgraded in place; kill them and their successors at the end."""
    with ExitStack() as started:

        def start(*options: str, **settings: object) -> UpgradingRelay:
            relay = UpgradingRelay(write_identity(tmp_path), options=options, **settings)  # type: ignore[arg-type]
            started.callback(relay.kill)
            return relay

        yield start
