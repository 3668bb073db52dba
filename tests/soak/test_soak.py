"""The soak finds nothing, and would find something."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest

from tests.end_to_end.relay_process import ROOT, RelayProcess, write_identity
from tests.soak.__main__ import soak
from tests.soak.payloads import Payloads, WrongPayload
from tests.soak.town import Town

SEED = 20  # any


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("workers", "seconds"), [("1", "60"), ("2", "20")])
def test_200_nodes_leave_a_relay_as_it_was_and_every_payload_arrives(workers: str, seconds: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--seconds", seconds, "--workers", workers]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert finished.returncode == 0, finished.stdout
    assert re.search(r"^soak: passed, seed \d+$", finished.stdout, re.MULTILINE), finished.stdout


@pytest.fixture
def relay(tmp_path: Path) -> Iterator[RelayProcess]:
    """A relay."""
    process = RelayProcess(write_identity(tmp_path))
    yield process
    process.process.kill()
    process.stop()


def test_a_relay_that_ends_is_found(relay: RelayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    _after(monkeypatch, 2.0, lambda: relay.process.send_signal(signal.SIGKILL))
    assert soak(relay, SEED, 20, 5.0)


def test_a_relay_that_ends_connections_without_a_reason_is_found(
    relay: RelayProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    _after(monkeypatch, 2.0, lambda: relay.process.send_signal(signal.SIGTERM))
    (first, *_) = soak(relay, SEED, 20, 5.0)
    assert "closed" in first


def _after(monkeypatch: pytest.MonkeyPatch, seconds: float, call: Callable[[], object]) -> None:
    run = Town.run

    def run_and_call(town: Town, limit: float) -> bool:
        monkeypatch.undo()
        town.after(seconds, call)
        return run(town, limit)

    monkeypatch.setattr(Town, "run", run_and_call)


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 19])
def test_a_message_is_recognized(size: int) -> None:
    message = Payloads(SEED).make(7, 3, size)
    assert Payloads(SEED).recognize(message) == (7, 3)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda message: message[:-1] + bytes([message[-1] ^ 1]),
        lambda message: bytes([message[0] ^ 1]) + message[1:],
        lambda message: message[:8],
        lambda message: b"",
    ],
)
def test_a_spoilt_message_is_not(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(WrongPayload):
        Payloads(SEED).recognize(spoil(Payloads(SEED).make(7, 3, 1000)))
