"""A real HAProxy in front of a relay: limits and logs use the addresses of its clients."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.support.haproxy import haproxy, needs_haproxy
from tests.support.node import Endpoint, Node, assert_listening, meet
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import LOCALHOST, RelayProcess, StartRelay

pytestmark = needs_haproxy


def configuration(relay: RelayProcess, send: str = "") -> str:
    """Return a configuration that passes connections on to a relay.

    Args:
        relay: the relay.
        send: how HAProxy announces the client's address.
    """
    return f"""
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind :4567
    default_backend relay
backend relay
    server relay {LOCALHOST}:{relay.port} {send}
"""


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_nodes_meet_and_the_log_has_their_ports(send: str, tmp_path: Path, start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8")
    with haproxy(tmp_path, configuration(relay, send)) as port:
        endpoint = Endpoint((LOCALHOST, port), relay.public_key)
        with Node(endpoint) as callee, Node(endpoint) as caller:
            listener = callee.listen()
            assert_listening(caller, callee, listener)
        assert relay.wait_for_end_of(listener).role == "listener"
    relay.stop_cleanly()


def test_documented_configuration_joins_nodes(
    tmp_path: Path, short_path: Path, start_relay: StartRelay
) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8", "--status", "0")
    (text,) = blocks("operations.md", "haproxy")
    here = {"10.0.0.1:4567": f"{LOCALHOST}:{relay.port}", "port 9090": f"port {relay.status_port}"}
    for documented, ours in here.items():
        assert documented in text
        text = text.replace(documented, ours)
    control = short_path / "control"
    with haproxy(tmp_path, f"global\n    stats socket {control}\n{text}") as port:
        wait_until(lambda: check_succeeded(control), "a successful health check")
        meet(Endpoint((LOCALHOST, port), relay.public_key))
    assert relay.ends(reason="PROXY") == [], "health checks don't connect to the relay's port"
    relay.stop_cleanly()


def check_succeeded(control: Path) -> bool:
    """Return whether HAProxy has checked the health of the relay with success.

    It opens its control socket after its port.
    """
    with socket.socket(socket.AF_UNIX) as sock:
        if sock.connect_ex(str(control)):
            return False
        sock.sendall(b"show stat\n")
        return "L7OK" in sock.makefile().read()


def test_a_balancer_without_header_is_refused(tmp_path: Path, start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8")
    with (
        haproxy(tmp_path, configuration(relay)) as port,
        socket.create_connection((LOCALHOST, port), timeout=PATIENCE) as sock,
    ):
        sock.sendall(b"\0\0\0\x04\0\0\0\0")
        assert sock.recv(10) == b""
    relay.wait_for_line('^connection refused: .*reason="no valid PROXY header from a trusted balancer"')
    relay.stop_cleanly()
