"""A real HAProxy in front of a relay: limits and logs use the addresses of its clients."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.documents import blocks
from tests.support.node import Endpoint, Node, assert_listening, meet
from tests.support.process import PATIENCE, free_port, wait_until
from tests.support.relay_process import LOCALHOST, RelayProcess, StartRelay

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
pytestmark = pytest.mark.skipif(HAPROXY is None, reason="needs Debian's haproxy")
CONFIGURATION = """
defaults
    mode tcp
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend clients
    bind 127.0.0.1:{port}
    default_backend relay
backend relay
    server relay 127.0.0.1:{relay} {send}
"""


class HaProxy:
    """An HAProxy that passes connections on to a relay.

    Args:
        relay: the relay.
        directory: for its configuration.
        send: how it announces the client's address.
        configuration: a template of its configuration.
    """

    def __init__(
        self, relay: RelayProcess, directory: Path, send: str = "", configuration: str = CONFIGURATION
    ) -> None:
        self.port = free_port()
        path = directory / "haproxy.cfg"
        path.write_text(configuration.format(port=self.port, relay=relay.port, send=send))
        self._process = subprocess.Popen([str(HAPROXY), "-db", "-q", "-f", str(path)])
        self._relay = relay
        wait_until(self._is_ready, "the start of haproxy")

    def endpoint(self) -> Endpoint:
        """Return where nodes reach the relay."""
        return Endpoint((LOCALHOST, self.port), self._relay.public_key)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()

    def _is_ready(self) -> bool:
        assert self._process.poll() is None, "haproxy ended"
        with socket.socket() as sock:
            return sock.connect_ex((LOCALHOST, self.port)) == 0


@pytest.mark.parametrize("send", ["send-proxy", "send-proxy-v2"])
def test_nodes_meet_and_the_log_has_their_ports(send: str, tmp_path: Path, start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8")
    proxy = HaProxy(relay, tmp_path, send)
    try:
        with Node(proxy.endpoint()) as callee, Node(proxy.endpoint()) as caller:
            listener = callee.listen()
            assert_listening(caller, callee, listener)
            port = listener.sock.getsockname()[1]
        assert relay.wait_for_end(port=port).role == "listener"
    finally:
        proxy.stop()
    relay.stop_cleanly()


def test_documented_configuration_joins_nodes(tmp_path: Path, start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8", "--status", "0")
    status = relay.status_port
    (text,) = blocks("operations.md", "haproxy")
    here = {
        "bind :4567": "bind 127.0.0.1:{port}",
        "10.0.0.1:4567": "127.0.0.1:{relay}",
        "port 9090": f"port {status}",
    }
    for documented, ours in here.items():
        assert documented in text
        text = text.replace(documented, ours)
    control = tmp_path / "control"
    proxy = HaProxy(relay, tmp_path, configuration=f"global\n    stats socket {control}\n{text}")
    try:
        wait_until(lambda: "L7OK" in ask(control, "show stat"), "a successful health check")
        meet(proxy.endpoint())
    finally:
        proxy.stop()
    assert relay.ends(reason="PROXY") == [], "health checks don't connect to the relay's port"
    relay.stop_cleanly()


def ask(control: Path, command: str) -> str:
    """Return what HAProxy answers to a command."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(control))
        sock.sendall(f"{command}\n".encode())
        return sock.makefile().read()


def test_a_balancer_without_header_is_refused(tmp_path: Path, start_relay: StartRelay) -> None:
    relay = start_relay("--proxy-protocol", "127.0.0.0/8")
    proxy = HaProxy(relay, tmp_path, "")
    try:
        with socket.create_connection((LOCALHOST, proxy.port), timeout=PATIENCE) as sock:
            sock.sendall(b"\0\0\0\x04\0\0\0\0")
            assert sock.recv(10) == b""
    finally:
        proxy.stop()
    relay.wait_for_line('^connection refused: .*reason="no valid PROXY header from a trusted balancer"')
    relay.stop_cleanly()
