"""examples/forward.py: --max counts a connection until its tunnel is gone."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from examples.forwarding.sides import Serve
from offset_common.address import Address
from offset_common.client import ConnectError, ConnectRefused, Tunnel, connect, driver
from tests.examples.programs import PATIENCE, Setting, server
from tests.support.process import wait_until
from tests.support.relay_process import LOCALHOST


def test_tunnel_that_lingers_counts(
    setting: Setting, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(driver, "END_TIMEOUT", 7.0)  # longer than `close` waits before the line
    stalled = threading.Event()
    shown: list[str] = []

    def flood(sock: socket.socket) -> None:
        sock.settimeout(0.5)
        with contextlib.suppress(socket.timeout):
            while True:  # until the caller, which reads nothing, holds up everything
                sock.sendall(bytes(65536))
        stalled.set()

    def is_shown(text: str) -> bool:
        shown.append(capsys.readouterr().err)
        return text in "".join(shown)

    def call() -> Tunnel:
        key = setting.home.public_key
        return connect(setting.ticket, setting.laptop, key, end_to_end=True, timeout=PATIENCE)

    def reached() -> bool:
        with contextlib.suppress(ConnectError):
            callers.append(call())
            return True
        return False

    callers: list[Tunnel] = []
    with server(flood) as target:
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
        assert stalled.wait(PATIENCE)
        callers[0].send(b"no message of forward.py")
        wait_until(lambda: is_shown("connection 1: cut off"), "the end of the first connection")
        with pytest.raises(ConnectRefused):
            call()
        wait_until(reached, "a free place")
        for caller in callers:
            caller.abort()
        side.stop()
        serving.join(PATIENCE)
        assert not serving.is_alive()
