"""A relay that is attacked."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.attack.harness import Attack
from tests.support.relay_process import RelayProcess, write_identity

StartAttack = Callable[..., Attack]


@pytest.fixture(scope="session", autouse=True)
def _many_descriptors() -> None:
    """Raise the limit of open files for the attackers as far as the system allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.fixture
def start_attack(tmp_path: Path) -> Iterator[StartAttack]:
    """Start a relay and a canary beside it."""
    attacks: list[Attack] = []

    def start(*options: str, prefix: Sequence[str] = (), canary: bool = True) -> Attack:
        relay = RelayProcess(write_identity(tmp_path), options=options, prefix=prefix)
        attacks.append(Attack(relay))
        if canary:
            attacks[-1].start_canary()
        return attacks[-1]

    yield start
    for attack in attacks:
        attack.close()


@pytest.fixture
def attack(start_attack: StartAttack) -> Attack:
    """A relay with its default limits, and a canary."""
    return start_attack()
