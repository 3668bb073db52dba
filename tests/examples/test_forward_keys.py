"""examples/forward.py: only the allowed keys get a connection."""

from __future__ import annotations

import contextlib

import pytest

from offset_common.client import connect, listen
from offset_common.errors import ConnectionEnded, OffsetError
from offset_common.identity import Identity, encode_key
from tests.examples.programs import PATIENCE, Setting, echo, exchange, reach, server, wait_for_reset
from tests.support.channel import KeyPair
from tests.support.client import InnerPeer
from tests.support.process import wait_until


def test_key_that_is_not_allowed_is_rejected(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target, allow=Identity.generate())
        dialing, port = setting.dial("--wait", "1")
        with reach(port) as sock:
            wait_for_reset(sock)
        serving.wait_for_line(f"^rejected: {encode_key(setting.laptop.public_key)} is not allowed$")
        dialing.wait_for_line("connection 1: failed: .*rejected the connect")
    assert reached == []


def test_rejections_are_collapsed_in_the_log(setting: Setting) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        for _ in range(25):
            stranger = connect(setting.ticket, Identity.generate(), setting.home.public_key)
            with stranger, pytest.raises(ConnectionEnded):
                stranger.receive(PATIENCE)
        port = setting.dial()[1]
        with reach(port) as sock:
            assert exchange(sock, b"after all of them") == b"after all of them"
        assert len([line for line in serving.lines if line.startswith("rejected: ")]) == 10


def test_listener_without_the_peers_key_gets_nothing(setting: Setting) -> None:
    # A dishonest relay could announce any key; the listener still has to prove it end to end.
    with listen(setting.ticket, setting.home) as listener:
        dialing, port = setting.dial("--wait", "20")
        with reach(port) as sock:
            sock.sendall(b"secret")
            with listener.receive(PATIENCE).accept() as plain:
                InnerPeer(plain, KeyPair())
                wait_for_reset(sock)
        dialing.wait_for_line(
            "connection 1: failed: the other node did not prove its key: .*another identity"
        )


def test_caller_without_the_allowed_key_is_rejected(setting: Setting) -> None:
    reached: list[bytes] = []
    with server(lambda sock: reached.append(sock.recv(1))) as target:
        serving = setting.serve(target)
        refusal = "connection 1: failed: the other node did not prove its key: .*another id"

        def attempt() -> bool:
            # The relay may not know the listener yet; then it closes the connect.
            plain = connect(setting.ticket, setting.laptop, setting.home.public_key)
            with plain, contextlib.suppress(OffsetError):
                InnerPeer(plain, KeyPair())
                while True:
                    plain.receive(PATIENCE)
            return serving.count_lines(refusal) == 1

        wait_until(attempt, "a refusal")
    assert reached == []
