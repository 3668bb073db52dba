"""strelay.py as a process: addresses, log, signals and resources."""

from __future__ import annotations

import base64
import contextlib
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.channel import KeyPair
from tests.support.hosts import needs_ipv6, needs_localhost
from tests.support.node import Endpoint, Node, make_tunnel, meet
from tests.support.process import PATIENCE, ROOT, free_port, wait_until
from tests.support.relay_log import Reason, fields_in
from tests.support.relay_process import LOCALHOST, StartRelay, command, write_identity


@contextlib.contextmanager
def without_descriptors(directory: Path, closed: str) -> Iterator[tuple[int, Endpoint]]:
    """Run a relay whose standard descriptors are closed; check that it stops with status 0.

    Args:
        directory: for its identity.
        closed: shell redirections.
    """
    identity = write_identity(directory)
    port = free_port()
    arguments = ["sh", "-c", f'exec "$@" {closed}', "sh", *command(identity, f"{LOCALHOST}:{port}")]
    process = subprocess.Popen(arguments, cwd=ROOT)
    try:
        wait_until(lambda: accepts(port), "an open port")
        seed = json.loads(identity.read_text())["privateKey"]
        key = KeyPair(base64.urlsafe_b64decode(seed + "=")).public_key
        yield process.pid, Endpoint((LOCALHOST, port), key)
        process.terminate()
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


def accepts(port: int) -> bool:
    try:
        socket.create_connection((LOCALHOST, port), 1).close()
    except ConnectionError:
        return False
    return True


OPTIONAL = re.compile(
    r"(offset_common\.(client|fleet|forward|illustrate|policy|relay\.workers|status|tools)"
    r"|http|multiprocessing|prometheus_client|redis|segno|sqlite3|tomli|tomllib|valkey)(\.|$)"
)
"""Modules that a relay imports only for an option."""


def test_ready_line_has_address_and_public_key(start_relay: StartRelay, tmp_path: Path) -> None:
    identity, ticket = write_identity(tmp_path), tmp_path / "relay.relay"
    arguments = ["relay-ticket", "-i", str(identity), "-a", "relay.example.com:4567", "-o", str(ticket)]
    subprocess.run([sys.executable, str(ROOT / "stmgr.py"), *arguments], check=True, timeout=PATIENCE)
    relay = start_relay(identity=identity)
    key = json.loads(ticket.read_text())["publicKey"]
    assert relay.lines[0] == f"relay ready: address=127.0.0.1:{relay.port} public_key={key}"
    meet(relay.endpoint())


@needs_localhost
def test_relay_listens_on_a_name(start_relay: StartRelay) -> None:
    meet(start_relay(address="localhost:0").endpoint("localhost"))


def test_relay_listens_on_several_addresses(start_relay: StartRelay) -> None:
    relay = start_relay("--laddr", "127.0.0.2:0")
    assert [address.rpartition(":")[0] for address in relay.addresses] == [LOCALHOST, "127.0.0.2"]
    assert relay.lines[0].startswith(f"relay ready: address={','.join(relay.addresses)} ")
    for address in relay.addresses:
        host, _, port = address.rpartition(":")
        meet(Endpoint((host, int(port)), relay.public_key))


@needs_ipv6
def test_relay_listens_on_ipv6(start_relay: StartRelay) -> None:
    relay = start_relay(address="[::1]:0")
    assert relay.addresses == [f"[::1]:{relay.port}"]
    meet(relay.endpoint("::1"))


@needs_ipv6
def test_every_ipv6_address_includes_ipv4(start_relay: StartRelay) -> None:
    relay = start_relay(address="[::]:0")
    for host, shown in (("::1", "[::1]"), (LOCALHOST, LOCALHOST)):
        meet(relay.endpoint(host))
        assert relay.wait_for_end(role="listener").address.startswith(f"{shown}:")
        relay.lines.clear()


def test_port_can_be_used_again_at_once(start_relay: StartRelay) -> None:
    first = start_relay()
    meet(first.endpoint())
    first.stop_cleanly()
    second = start_relay(address=f"{LOCALHOST}:{first.port}", identity=first.identity)
    meet(second.endpoint())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_relay_at_once_without_tunnels(start_relay: StartRelay, number: int) -> None:
    relay = start_relay("--drain", "3600")
    with Node(relay.endpoint()) as node:
        listener, idle, silent = node.listen(), node.open(), node.dial()
        assert relay.stop(number) == 0
        assert listener.messages_until_end() == []
        assert idle.messages_until_end() == []
        silent.wait_for_close()
    assert relay.failures == []


@pytest.mark.parametrize("end", ["the last tunnel ends", "a second signal"])
def test_drain_ends_early(start_relay: StartRelay, end: str) -> None:
    relay = start_relay("--drain", "3600")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        relay.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not accepts(relay.port), "a closed port")
        if end == "a second signal":
            relay.process.send_signal(signal.SIGTERM)
        else:
            near.close()
        assert far.messages_until_end() == []
        far.close()
        assert relay.wait() == 0
    assert relay.ends(reason=Reason.IDLE) == [], "the tunnel ended by itself"


def test_each_connection_ends_with_one_line(start_relay: StartRelay) -> None:
    relay = start_relay()
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        near, far = make_tunnel(caller, callee, listener)
        near.close()
        assert far.messages_until_end() == []
        far.close()
        listener.close()
        expected = [
            (listener.port, callee, "listener", Reason.PEER_CLOSED),
            (near.port, caller, "tunnel", Reason.PEER_CLOSED),
            (far.port, callee, "tunnel", Reason.PARTNER_ENDED),
        ]
        for port, node, role, reason in expected:
            end = relay.wait_for_end(port, role, reason)
            assert end.key == base64.urlsafe_b64encode(node.public_key).decode()[:8]
            assert end.received > 0 and end.sent > 0
    relay.stop_cleanly()
    for port, *_ in expected:
        (line,) = [line for line in relay.lines if f" address=127.0.0.1:{port} " in line]
        assert re.fullmatch(
            r'connection ended: address=127\.0\.0\.1:\d+ key=\S{8} role=\w+ reason="[^"]+"'
            r" received=\d+ sent=\d+ seconds=\d+\.\d",
            line,
        )


def test_opened_tunnel_has_a_line_with_both_keys(start_relay: StartRelay) -> None:
    relay = start_relay()
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        opened = fields_in(relay.wait_for_line("^tunnel opened: "))
    assert relay.count_lines("^tunnel opened") == 1
    keys = [base64.urlsafe_b64encode(node.public_key).decode()[:8] for node in (caller, callee)]
    assert [opened["connect_key"], opened["accept_key"]] == keys
    assert opened["connect_address"] == f"{LOCALHOST}:{near.port}"
    assert opened["accept_address"] == f"{LOCALHOST}:{far.port}"


@pytest.mark.parametrize("closed", ["2>&-", "0<&- 1>&- 2>&-"])
def test_relay_serves_without_a_standard_error(tmp_path: Path, closed: str) -> None:
    with without_descriptors(tmp_path, closed) as (pid, endpoint):
        meet(endpoint)
        # A connection that got descriptor 2 would receive the log.
        assert not Path(f"/proc/{pid}/fd/2").is_socket()


def test_relay_without_options_imports_no_optional_part(start_relay: StartRelay) -> None:
    """The rules for imports between parts are in pyproject.toml."""
    program = (
        "import sys, strelay; status = strelay.main(sys.argv[3:]);"
        "print('imported:', *sys.modules, file=sys.stderr); sys.exit(status)"
    )
    relay = start_relay(prefix=(sys.executable, "-c", program))
    meet(relay.endpoint())
    relay.stop_cleanly()
    imported = relay.wait_for_line("^imported: ").split()
    assert "offset_common.relay.server" in imported
    assert [name for name in imported if OPTIONAL.match(name)] == []


@pytest.mark.parametrize(("mode", "warned"), [(0o600, 0), (0o640, 1), (0o604, 1), (0o660, 1)])
def test_readable_identity_causes_a_warning(
    start_relay: StartRelay, tmp_path: Path, mode: int, warned: int
) -> None:
    identity = write_identity(tmp_path)
    identity.chmod(mode)
    relay = start_relay(identity=identity)
    assert relay.count_lines("chmod 600") == warned
    assert json.loads(identity.read_text())["privateKey"] not in "\n".join(relay.lines)


def test_start_raises_the_limit_of_descriptors(start_relay: StartRelay) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    relay = start_relay(prefix=("sh", "-c", 'ulimit -Sn 64 && exec "$@"', "sh"))
    assert resource.prlimit(relay.pid, resource.RLIMIT_NOFILE) == (hard, hard)


def test_all_descriptors_and_threads_are_released(start_relay: StartRelay) -> None:
    relay = start_relay()
    meet(relay.endpoint())
    relay.wait_until_empty()
    before = (relay.descriptors, relay.threads)
    for _ in range(3):
        threads = [threading.Thread(target=meet, args=(relay.endpoint(),)) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    wait_until(lambda: (relay.descriptors, relay.threads) == before, "the state before")
    assert relay.failures == []
