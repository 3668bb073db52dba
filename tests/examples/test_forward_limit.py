"""examples/forward.py: --max counts a connection until its tunnel is gone."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading

import pytest

from examples.forwarding.sides import Serve
from offset_common.address import Address
from offset_common.client import ConnectError, ConnectRefused, Identity, Tunnel, connect, driver
from tests.examples.programs import PATIENCE, Setting, server
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST

RESET = struct.pack("ii", 1, 0)


def test_tunnel_that_lingers_counts(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", 3.0)
    cut = threading.Event()

    def flood_and_reset(sock: socket.socket) -> None:
        with contextlib.suppress(socket.timeout):
            sock.settimeout(0.5)
            while True:  # until the caller, which reads nothing, holds up everything
                sock.sendall(bytes(65536))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        sock.close()
        cut.set()

    def call() -> Tunnel:
        key = setting.home.public_key
        return connect(setting.ticket, setting.laptop, key, end_to_end=True, timeout=PATIENCE)

    def reached() -> bool:
        with contextlib.suppress(ConnectError):
            callers.append(call())
            return True
        return False

    callers: list[Tunnel] = []
    with server(flood_and_reset) as target:
        side = Serve(
            setting.ticket,
            setting.home,
            1,
            Address(LOCALHOST, target),
            frozenset([setting.laptop.public_key]),
        )
        serving = threading.Thread(target=side.run, daemon=True)
        serving.start()
        wait_until(reached, "the first connection")
        assert cut.wait(PATIENCE)
        with pytest.raises(ConnectRefused):
            call()
        wait_until(reached, "a free place")
        for caller in callers:
            caller.abort()
        side.stop()
        serving.join(PATIENCE)
        assert not serving.is_alive()
