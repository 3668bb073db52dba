"""Log lines that an attacker can cause are few, and contain no secret."""

from __future__ import annotations

import base64
import json

import pytest

from tests.attack import ATTACKER
from tests.attack.conftest import StartAttack
from tests.attack.harness import Attack
from tests.support.encoding import VERSION_FRAME, frame
from tests.support.relay_process import RelayProcess
from tests.support.swarm import Swarm

MAX_LINES = 60  # for thousands of connections of one kind


def close_at_once(swarm: Swarm) -> None:
    swarm.dial(200, source=ATTACKER)
    swarm.leave()


def send_garbage(swarm: Swarm) -> None:
    peers = swarm.dial(200, source=ATTACKER)
    for peer in peers:
        peer.send_bytes(b"\xff" * 16)
    assert swarm.all_end(peers)


def connect_to_nobody(swarm: Swarm) -> None:
    assert swarm.all_end(swarm.connect(200, bytes(32), source=ATTACKER))


@pytest.mark.parametrize("attempt", [close_at_once, send_garbage, connect_to_nobody])
def test_lines_of_one_kind_are_collapsed(start_attack: StartAttack, attempt) -> None:
    attack = start_attack(canary=False)
    swarm = attack.swarm()
    for _ in range(15):
        attempt(swarm)
    attack.check()
    print(f"\n  {len(attack.relay.lines)} lines for 3,000 connections")
    assert len(attack.relay.lines) < MAX_LINES


def test_no_secret_is_logged(attack: Attack) -> None:
    swarm = attack.swarm()
    for sent in (
        bytes(100),
        b"GET / HTTP/1.1\r\n\r\n",
        VERSION_FRAME + b"\xff" * 60,
        VERSION_FRAME + frame(b""),
    ):
        for peer in swarm.dial(20):
            peer.send_bytes(sent)
    for peer in swarm.prove(20):
        peer.send(b"not an InitConnection")
    swarm.run_for(0.5)
    attack.check()
    assert_no_secret(attack.relay)


def assert_no_secret(relay: RelayProcess) -> None:
    """Check that the log does not contain the private key in any form."""
    text = json.loads(relay.identity.read_text())["privateKey"]
    seed = base64.urlsafe_b64decode(text + "=")
    numbers = {str(int.from_bytes(seed, order)) for order in ("big", "little")}
    forms = {text[:20], base64.b64encode(seed).decode()[:20], seed.hex()[:20], seed[::-1].hex()[:20]}
    forms |= {repr(seed)[2:-1], str(list(seed)), *numbers}
    log = "\n".join(relay.lines)
    assert not [form for form in forms if form in log or form.upper() in log]
