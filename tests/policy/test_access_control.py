"""A relay with an access file: which connections it refuses, and which it closes after a reload."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Callable
from unittest.mock import Mock

import pytest

from offset_common.identity import Identity, encode_key
from offset_common.policy import steering
from offset_common.policy.access_control import AccessControl
from offset_common.policy.steering import PolicyOptions, Steering
from offset_common.relay.close_reason import CloseReason
from offset_common.relay.connection import SocketConnection
from offset_common.relay.event_loop import EACH_IN_ROUND
from offset_common.relay.sessions.tunnel import Tunnel
from offset_common.wire.messages import InitRole
from tests.relay.harness import Harness

ALICE, BOB = Identity.generate(), Identity.generate()
ALICE_KEY, BOB_KEY = encode_key(ALICE.public_key), encode_key(BOB.public_key)
RELOAD = re.compile("reloaded|reload failed")
START = f"listen {ALICE_KEY} Alice's relay\nconnect {BOB_KEY} bob\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "access.txt"
    path.write_text(START)
    return path


@pytest.fixture
def harness(path: Path) -> Iterator[Harness]:
    made = Harness(make_policy=partial(Steering, options=PolicyOptions(access=str(path))))
    yield made
    made.release()


@pytest.fixture
def reload(harness: Harness, path: Path) -> Callable[[str], str]:
    """Change the access file and reload it; return the log line about that."""

    def change(text: str) -> str:
        path.write_text(text)
        before = len(harness.log.lines)
        harness.relay.reload()
        harness.run_until(lambda: any(RELOAD.search(line) for line in harness.log.lines[before:]))
        (line,) = [line for line in harness.log.lines[before:] if RELOAD.search(line)]
        return line

    return change


def test_a_listed_key_may_listen_and_another_may_not(harness):
    assert not harness.listener(ALICE).connection.closed
    assert harness.reason_of(harness.listener().connection) is CloseReason.DENIED


def test_a_bug_in_a_reload_ends_that_reload_alone(reload, monkeypatch):
    with monkeypatch.context() as bug:
        bug.setattr(steering, "load_access", None)
        assert "error: reload failed" in reload(START)
    assert reload(START).startswith("reloaded")


def test_an_unlisted_key_may_not_connect(harness):
    listener = harness.listener(ALICE)
    assert harness.reason_of(harness.pending(listener).connection) is CloseReason.DENIED


def test_an_unlisted_key_may_not_accept(harness):
    peer = harness.admit().request(InitRole.ACCEPT, BOB.public_key)
    assert harness.reason_of(peer.connection) is CloseReason.DENIED


def test_access_rules_alone_need_no_meters(harness, path):
    assert not Steering(harness.relay, PolicyOptions(access=str(path))).meters
    assert Steering(harness.relay, PolicyOptions(rate=1000)).meters
    assert Steering(harness.relay, PolicyOptions(quota=1000)).meters


def test_the_name_is_in_the_log(harness):
    peer = harness.listener(ALICE)
    peer.sock.close()
    harness.reason_of(peer.connection)
    assert any(f'key={ALICE_KEY[:8]} name="Alice\'s relay"' in line for line in harness.log.lines)
    assert harness.relay.name_of(BOB.public_key) == "bob"


def test_a_denied_address_is_closed_at_once(harness, reload):
    reload("deny 192.0.2.0/24\n")
    with harness.connect_socket(("192.0.2.9", 5000)) as sock:
        assert sock.recv(10) == b""
    assert (
        'connection refused: address=192.0.2.9:5000 reason="denied by the access file"\n' in harness.log.lines
    )


def test_a_reload_closes_what_is_denied_now(harness, reload):
    listener = harness.listener(ALICE)
    other = harness.admit(BOB)
    assert reload(START + f"deny {ALICE_KEY}\n").endswith("closed=1\n")
    assert harness.reason_of(listener.connection) is CloseReason.DENIED
    assert not other.connection.closed


def test_a_reload_ends_the_tunnels_of_a_denied_key(harness, reload):
    listener = harness.listener(ALICE)
    near = harness.admit(BOB).request(InitRole.CONNECT, ALICE.public_key)
    listener.incoming_key()
    far = harness.admit(ALICE).request(InitRole.ACCEPT, BOB.public_key)
    near.send(b"last words")
    assert far.receive() == b"last words"
    reload(f"listen {ALICE_KEY} a\nconnect {ALICE_KEY} a\n")
    near.wait_for_end()
    near.sock.close()
    assert harness.reason_of(near.connection) is CloseReason.DENIED
    far.sock.close()
    assert harness.reason_of(far.connection) is CloseReason.PARTNER_ENDED
    assert not listener.connection.closed


@pytest.mark.parametrize(("rule", "closed"), [("deny 127.0.0.0/8", 2 * EACH_IN_ROUND), ("deny 192.0.2.1", 0)])
def test_a_reload_checks_a_few_connections_in_each_round(rule, closed, harness, reload, path, monkeypatch):
    reload("")
    peers = [harness.admit() for _ in range(2 * EACH_IN_ROUND)]
    checked = []
    denies_peer = AccessControl.denies_peer

    def check(self: AccessControl, connection: SocketConnection) -> bool:
        checked.append(connection)
        return denies_peer(self, connection)

    monkeypatch.setattr(AccessControl, "denies_peer", check)
    path.write_text(f"{rule}\n")
    before = len(harness.log.lines)
    harness.relay.reload()

    def all_checked() -> bool:
        assert len(checked) <= EACH_IN_ROUND
        checked.clear()
        return any(f"closed={closed}\n" in line for line in harness.log.lines[before:])

    harness.run_until(all_checked)
    assert sum(peer.connection.closed for peer in peers) == closed


def test_a_reload_without_a_thread_keeps_the_old_rules(harness, reload, monkeypatch):
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        assert "the system allows no more threads; raise" in reload("")
    assert harness.reason_of(harness.listener().connection) is CloseReason.DENIED
    assert reload("").startswith("reloaded")


def test_a_bug_at_the_end_of_one_tunnel_leaves_no_other_open(harness, reload, monkeypatch):
    reload("")
    (first, _), (second, _) = harness.tunnel(), harness.tunnel()
    finish = Tunnel.finish

    def fail_for_first(session: Tunnel, reason: CloseReason) -> None:
        if session.connection is first.connection:
            raise RuntimeError("a bug")
        finish(session, reason)

    monkeypatch.setattr(Tunnel, "finish", fail_for_first)
    reload("deny 127.0.0.0/8\n")
    assert harness.reason_of(first.connection) is CloseReason.BUG
    second.wait_for_end()
    second.sock.close()
    assert harness.reason_of(second.connection) is CloseReason.DENIED


def test_a_mistake_keeps_the_old_rules(harness, reload):
    line = reload(f"listen {BOB_KEY} bob\nnonsense\n")
    assert line.startswith("warning: not reloaded: reason=")
    assert "line 2: unknown word 'nonsense'" in line
    assert not harness.listener(ALICE).connection.closed
    assert harness.reason_of(harness.listener(BOB).connection) is CloseReason.DENIED
