"""/healthz of a relay process: for load balancers and supervisors."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from offset_common.wire.messages import InitRole
from tests.status.relays import RelayWithStatus
from tests.support.node import Node, make_tunnel
from tests.support.process import wait_until


def test_a_relay_with_room_is_healthy(tmp_path: Path) -> None:
    relay = RelayWithStatus(tmp_path, "--connections", "100")
    try:
        reply = relay.get("/healthz")
        assert reply.status == 200
        assert reply.json["healthy"] is True
        first = reply.json["limits"][0]
        assert (first["name"], first["used"], first["limit"]) == ("connections", 0, 100)
    finally:
        relay.kill()


def test_a_full_relay_is_not_healthy(tmp_path: Path) -> None:
    relay = RelayWithStatus(tmp_path, *["--connections", "4", "--per-address", "4", "--per-key", "4"])
    try:
        with contextlib.ExitStack() as nodes:
            for _ in range(4):  # listeners stay for longer than a connection without a role
                nodes.enter_context(Node(relay.endpoint())).open().init(InitRole.LISTEN)
            wait_until(lambda: relay.get("/healthz").status == 503, "503")
            assert relay.get("/healthz").json["problem"] == "connections: 4 of 4"
        wait_until(lambda: relay.get("/healthz").status == 200, "200")
    finally:
        relay.kill()


def test_a_draining_relay_is_not_healthy(tmp_path: Path) -> None:
    relay = RelayWithStatus(tmp_path, "--drain", "60")
    try:
        with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
            make_tunnel(caller, callee, callee.listen())
            relay.process.send_signal(signal.SIGTERM)
            wait_until(lambda: relay.get("/healthz").status == 503, "503")
            assert relay.get("/healthz").json["problem"] == "the relay is stopping"
            assert relay.status()["draining"] is True
    finally:
        relay.kill()
