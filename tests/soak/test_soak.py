"""The soak test finds no fault in the relay, and reports faults that are there."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.soak.__main__ import soak
from tests.soak.payloads import Payloads, WrongPayload
from tests.soak.simulation import Simulation
from tests.support.process import ROOT
from tests.support.relay_process import StartRelay, start_relay

__all__ = ["start_relay"]

SEED = 20  # any


@pytest.mark.slow
@pytest.mark.timeout(240)
@pytest.mark.parametrize(("workers", "seconds"), [("1", "60"), ("2", "20")])
def test_soak_of_200_nodes_finds_nothing(workers: str, seconds: str) -> None:
    command = [sys.executable, "-m", "tests.soak", "--seconds", seconds, "--workers", workers]
    finished = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert finished.returncode == 0, finished.stdout
    assert re.search(r"^soak: passed, seed \d+$", finished.stdout, re.MULTILINE), finished.stdout


@pytest.mark.parametrize(
    ("number", "fault"), [(signal.SIGKILL, "the relay ended|closed"), (signal.SIGTERM, "closed")]
)
def test_soak_notices_a_relay_that_ends(
    start_relay: StartRelay, monkeypatch: pytest.MonkeyPatch, number: int, fault: str
) -> None:
    relay = start_relay()
    run = Simulation.run

    def run_and_signal(simulation: Simulation, seconds: float) -> bool:
        monkeypatch.undo()
        simulation.after(2.0, lambda: relay.process.send_signal(number))
        return run(simulation, seconds)

    monkeypatch.setattr(Simulation, "run", run_and_signal)
    faults = soak(relay, SEED, 20, 5.0)
    assert re.search(fault, faults[0])


@pytest.mark.parametrize("size", [0, 1, 1000, 1 << 19])
def test_payload_is_recognized(size: int) -> None:
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
def test_changed_payload_is_noticed(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(WrongPayload):
        Payloads(SEED).recognize(spoil(Payloads(SEED).make(7, 3, 1000)))
