"""Upgrades in place: nobody is refused, no byte of a tunnel is lost, and nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sqlite3
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import pytest

from offset_common.client import connect
from offset_common.identity import Identity
from offset_common.policy.usage import read_usage
from offset_common.wire.messages import InitRole
from tests.service.conftest import StartUpgrading
from tests.service.relays import SERVES, STARTS, UpgradingRelay, ends, is_running, open_files
from tests.service.traffic import Flow, Newcomers, traffic
from tests.support.client import echoing
from tests.support.node import Node, assert_joined, assert_listening, make_tunnel, meet
from tests.support.process import PATIENCE, ROOT, wait_until
from tests.support.relay_process import LOCALHOST


def upgrade_under_load(relay: UpgradingRelay, flows: Sequence[Flow], newcomers: Newcomers) -> None:
    """Upgrade a relay, and wait until all traffic has continued."""
    met, listens = newcomers.met, newcomers.listens
    relay.upgrade()
    received = [max(flow.received) for flow in flows]
    wait_until(lambda: newcomers.met > met + 1 and newcomers.listens > listens, "newcomers")
    wait_until(lambda: all(min(flow.received) > count for flow, count in zip(flows, received)), "messages")


@pytest.mark.parametrize("options", [(), ("--workers", "2")], ids=["alone", "with workers"])
def test_nobody_notices_upgrades_under_load(
    start_upgrading: StartUpgrading, options: tuple[str, ...]
) -> None:
    relay = start_upgrading("--upgrade-drain", "3600", *options)
    with traffic(relay.endpoint(), 3) as (flows, newcomers):
        wait_until(lambda: newcomers.met > 1, "newcomers")
        for _ in range(2):
            upgrade_under_load(relay, flows, newcomers)
        old = relay.all_pids[:-1]
        assert is_running(old[0]), "its tunnels continue"
        wait_until(lambda: newcomers.greeted > 100, "connections")
    wait_until(lambda: not any(map(is_running, old)), "the end of the old relays")
    meet(relay.endpoint())
    assert relay.failures == []


def test_new_process_has_the_address_and_serves_at_once(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--laddr", "127.0.0.2:0")
    addresses = relay.addresses
    with ends(relay.upgrade()):
        meet(relay.endpoint())
    ready = [line for line in relay.lines if line.startswith("relay ready")]
    assert len(ready) == 2
    assert ready[0] == ready[1]
    assert ",".join(addresses) in ready[1]
    assert relay.process.wait(PATIENCE) == 0


def test_upgraded_relay_keeps_its_process_name(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    script = tmp_path / "a-relay"
    script.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "import strelay\nsys.exit(strelay.main())\n"
    )
    script.chmod(0o755)
    relay = start_upgrading(prefix=("sh", "-c", 'shift 2; exec "$0" "$@"', str(script)))
    with ends(relay.upgrade()):
        assert Path(f"/proc/{relay.pid}/comm").read_text() == "a-relay\n"


def test_listeners_and_pending_connects_are_closed_at_once(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--upgrade-drain", "3600")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        near, far = make_tunnel(caller, callee, listener)
        pending = caller.connect(callee.public_key)
        assert listener.incoming() == caller.public_key
        before = relay.upgrade()
        for peer in (listener, pending):
            assert peer.messages_until_end() == []
        assert_joined(near, far)
        assert_listening(caller, callee, callee.listen())
        with ends(before):
            near.close()
            far.close()


def test_connect_waits_for_the_return_of_its_listener(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading()
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        relay.upgrade()
        assert listener.messages_until_end() == []
        near = caller.connect(callee.public_key)
        near.send(b"early")
        listener = callee.open().init(InitRole.LISTEN)
        assert listener.incoming() == caller.public_key
        far = callee.accept(caller.public_key)
        assert far.receive() == b"early"
        assert_joined(near, far)


def test_a_caller_waits_until_the_node_is_back(start_upgrading: StartUpgrading) -> None:
    """The package's own node: it connects again by itself, and callers need not try again."""
    relay = start_upgrading("--upgrade-drain", "3600")
    with echoing(relay.ticket) as node:
        wait_until(lambda: relay.state().figures["listeners"] == 1, "a listener")
        with connect(relay.ticket, Identity.generate(), node, end_to_end=True) as stays:
            stays.send(b"before")
            assert stays.receive(PATIENCE) == b"before"
            relay.upgrade()
            with connect(relay.ticket, Identity.generate(), node, end_to_end=True) as tunnel:
                tunnel.send(b"hello")
                assert tunnel.receive(PATIENCE) == b"hello"
            stays.send(b"after")
            assert stays.receive(PATIENCE) == b"after"


def test_upgrade_drain_bounds_the_life_of_tunnels(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--upgrade-drain", "1", "--drain", "3600")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        near.send(b"last words")
        with ends(relay.upgrade()):
            assert far.messages_until_end() == [b"last words"]
            assert near.messages_until_end() == []
            near.close()
            far.close()


def test_drain_is_used_without_an_upgrade_drain(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--drain", "0")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        with ends(relay.upgrade()):
            assert near.messages_until_end() == []
            assert far.messages_until_end() == []
            near.close()
            far.close()


def test_term_shortens_the_drain_of_an_old_relay(start_upgrading: StartUpgrading) -> None:
    """systemctl stop sends SIGTERM to all processes of the service."""
    relay = start_upgrading("--upgrade-drain", "3600", "--drain", "1")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        with ends(relay.upgrade()):
            near.send(b"last words")
            for pid in relay.all_pids:
                os.kill(pid, signal.SIGTERM)
            assert far.messages_until_end() == [b"last words"]
            near.close()
            far.close()
    assert relay.process.wait(PATIENCE) == 0


def test_upgrade_reads_the_program_and_files_again(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "relay.toml"
    path.write_text("workers = 1\n")
    relay = start_upgrading("--config", str(path))
    assert relay.workers == []
    path.write_text(f'workers = 2\nladdr = ["{LOCALHOST}:0", "127.0.0.3:0"]\n')
    relay.upgrade()
    wait_until(lambda: len(relay.workers) == 2, "two workers")
    meet(relay.endpoint())


def test_status_moves_with_the_relay(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--status", f"{LOCALHOST}:0", "--upgrade-drain", "3600")
    port = relay.status_port
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        make_tunnel(caller, callee, callee.listen())
        with socket.create_connection((LOCALHOST, port), PATIENCE) as slow:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n")
            relay.upgrade()
            slow.sendall(b"\r\n")
            assert slow.recv(65536).startswith(b"HTTP/1.1 ")
        for _ in range(20):
            with urllib.request.urlopen(f"http://{LOCALHOST}:{port}/healthz", timeout=PATIENCE) as answer:
                assert answer.status == 200, "the old one would answer that it is stopping"


def test_addresses_that_are_not_asked_for_are_given_up(
    start_upgrading: StartUpgrading, tmp_path: Path
) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "relay.toml"
    path.write_text(f'status = "{LOCALHOST}:0"\n')
    relay = start_upgrading("--config", str(path))
    port = relay.status_port
    path.write_text("")
    with ends(relay.upgrade()):
        relay.wait_for_line(f"^address given up: address={LOCALHOST}:{port}$")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((LOCALHOST, port), PATIENCE)
    meet(relay.endpoint())


def test_volumes_of_both_processes_add_up(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    usage = tmp_path / "usage.db"
    relay = start_upgrading("--usage", str(usage), "--upgrade-drain", "3600", "--quota", "1T")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        tunnels = [make_tunnel(caller, callee, callee.listen())]
        relay.upgrade()
        tunnels.append(make_tunnel(caller, callee, callee.listen()))
        for _ in range(50):
            for near, far in tunnels:
                near.send(bytes(range(250)) * 40)
                far.receive()
        for near, far in tunnels:
            near.close()
            far.messages_until_end()
            far.close()
        received = [relay.wait_for_end(near.port, "tunnel").received for near, _ in tunnels]
    wait_until(lambda: not is_running(relay.all_pids[0]), "the end of the old relay")
    with ends(relay.pid):
        relay.signal(signal.SIGTERM)
    (row,) = [row for row in read_usage(str(usage)) if row.key == caller.public_key]
    # The handshakes and the InitConnections are not counted.
    assert 0 <= sum(received) - row.volume.received < 2000
    assert relay.count_lines("usage file") == 0
    with contextlib.closing(sqlite3.connect(usage)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_reload_during_an_upgrade_reaches_the_new_process(
    start_upgrading: StartUpgrading, tmp_path: Path
) -> None:
    access = tmp_path / "access.txt"
    access.write_text("")
    relay = start_upgrading("--access", str(access))
    relay.signal(signal.SIGHUP)
    relay.wait_for_line("^reloaded")
    with ends(relay.upgrade()):
        meet(relay.endpoint())
    assert relay.count_lines("^reloaded") == 1, "not again for a reload before the upgrade"
    relay.signal(signal.SIGUSR2)
    relay.wait_for_line(STARTS, 2)
    relay.signal(signal.SIGHUP)
    relay.wait_for_line(SERVES, 2)
    relay.wait_for_line("^reloaded", 3)


def test_nothing_of_the_old_process_is_inherited(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--upgrade-drain", "3600", "--workers", "2")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        old = open_files(relay.pid)
        before = relay.upgrade()
        shared = set(open_files(before)) & set(open_files(relay.pid))
        assert not any(each.startswith("socket:") for each in shared)
        assert len(open_files(relay.pid)) <= len(old)
        assert_joined(near, far)


@pytest.mark.slow
def test_ten_upgrades_leave_nothing_behind(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--workers", "2")
    with ends(relay.upgrade()):
        wait_until(lambda: len(relay.workers) == 2, "two workers")
    before, memory = (relay.descriptors, relay.threads), relay.memory
    for _ in range(10):
        with ends(relay.upgrade()):
            meet(relay.endpoint())
        wait_until(lambda: (relay.descriptors, relay.threads) == before, "as many descriptors as before")
        assert [pid for pid in relay.all_pids[:-1] if is_running(pid)] == []
    assert relay.memory < 1.1 * memory
