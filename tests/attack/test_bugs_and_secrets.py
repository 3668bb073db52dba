"""A bug ends one connection, the loop's own failure the process; and no secret is ever in the log."""

from __future__ import annotations

import base64
import json
import sys
import time

import pytest

from offset_common.wire.messages import InitRole
from tests.attack.conftest import BeginSiege
from tests.attack.crowd import Crowd
from tests.attack.saboteur import LOOP, ROOMS, VICTIM
from tests.attack.siege import Siege
from tests.attack.supplies import push

STATUS_SOFTWARE = 70


def with_a_fault_in(room: str) -> tuple[str, ...]:
    """Return what runs the relay so."""
    return (sys.executable, "-m", "tests.attack.saboteur", room)


def meet_the_fault(crowd: Crowd) -> None:
    """Let the victim do all that a node does, as far as it comes."""
    listener = crowd.listen()
    key = listener.identity.public_key
    (victim,) = crowd.dial(1, [VICTIM])
    victim.on_proven = lambda each: each.init(InitRole.CONNECT, key)
    victim.begin_handshake()
    if crowd.run(lambda: victim.ended or bool(listener.messages), 3.0) and not victim.ended:
        (far,) = crowd.prove(
            1, [listener.identity], then=lambda each: each.init(InitRole.ACCEPT, VICTIM.public_key)
        )
        push(victim, 1000, 10)
        push(far, 1000, 10)
        crowd.run(lambda: victim.ended, 1.0)


@pytest.mark.parametrize("room", ROOMS)
def test_a_bug_ends_one_connection_and_is_told_with_its_traceback(begin_siege: BeginSiege, room: str) -> None:
    siege = begin_siege(prefix=with_a_fault_in(room))
    siege.stops_in_order = False
    meet_the_fault(siege.crowd())
    siege.end_watch()
    siege.relay.wait_for_line("a bug of the relay ended 127.0.0.1:")
    siege.relay.wait_for_line("PlantedError")
    siege.relay.wait_for_line("an error of the relay, ")
    assert siege.state()["bugs"] >= 1
    assert siege.relay.stop() == 0
    assert_no_secret_is_told(siege)


def test_the_loops_own_failure_ends_the_process_with_status_70(begin_siege: BeginSiege) -> None:
    siege = begin_siege(prefix=with_a_fault_in(LOOP))
    siege.stops_in_order = False
    siege.give_up_watch()
    crowd = siege.crowd()
    (victim,) = crowd.dial(1, [VICTIM])
    victim.begin_handshake()
    assert crowd.all_end([victim])
    assert siege.relay.process.wait(5.0) == STATUS_SOFTWARE
    siege.relay.wait_for_line("the relay failed:")
    siege.relay.wait_for_line("PlantedError")
    assert_no_secret_is_told(siege)


def test_no_secret_is_told_whatever_peers_do(siege: Siege) -> None:
    crowd = siege.crowd()
    meet_the_fault(crowd)
    for sent in (bytes(100), b"GET / HTTP/1.1\r\n\r\n", bytes(7) + b"\x04" + bytes(4) + b"\xff" * 60):
        for visitor in crowd.dial(20):
            visitor.send_bytes(sent)
    for visitor in crowd.prove(20):
        visitor.send(b"no InitConnection")
    crowd.run_for(0.5)
    time.sleep(0.2)
    assert_no_secret_is_told(siege)


def assert_no_secret_is_told(siege: Siege) -> None:
    """See that the private key is in no line of the log, however it may be written."""
    text = json.loads(siege.identity.read_text())["privateKey"]
    seed = base64.urlsafe_b64decode(text + "=")
    shapes = {text, base64.b64encode(seed).decode(), seed.hex(), seed.hex().upper(), repr(seed)[2:-1]}
    shapes |= {
        str(list(seed)),
        str(int.from_bytes(seed, "big")),
        str(int.from_bytes(seed, "little")),
        seed[::-1].hex(),
    }
    log = "\n".join(siege.relay.lines)
    assert not [shape for shape in shapes if shape in log]
    assert text[:20] not in log and seed.hex()[:20] not in log


@pytest.mark.parametrize(("mode", "warned"), [(0o600, False), (0o640, True), (0o604, True), (0o660, True)])
def test_an_identity_that_others_can_read_is_warned_about(
    begin_siege: BeginSiege, mode: int, warned: bool
) -> None:
    siege = begin_siege(mode=mode)
    assert siege.count_lines("warning: others can read") == warned
    assert_no_secret_is_told(siege)
