"""A relay that is attacked."""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable

import pytest

from tests.attack.siege import Siege

BeginSiege = Callable[..., Siege]


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """Let the attackers have as many sockets as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def begin_siege(tmp_path: Path) -> Iterator[BeginSiege]:
    """Start a relay and the watch; at the end all that must hold is checked."""
    sieges: list[Siege] = []

    def begin(*options: str, prefix: Sequence[str] = (), mode: int = 0o600, watched: bool = True) -> Siege:
        sieges.append(Siege(tmp_path, options, prefix, mode))
        return sieges[-1].begin() if watched else sieges[-1]

    try:
        yield begin
        for each in sieges:
            each.finish()
    finally:
        for each in sieges:
            each.give_up()


@pytest.fixture
def siege(begin_siege: BeginSiege) -> Siege:
    """A relay with its defaults, and the watch."""
    return begin_siege()
