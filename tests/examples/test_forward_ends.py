"""examples/forward.py: connections that are cut off, relays that go away and come back, signals."""

from __future__ import annotations

import contextlib
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.forwarding.bridge import DATA, END, LINGER_RESET
from examples.forwarding.sides import FIRST_DELAY, MAX_DELAY, Backoff
from offset_common.client import listen
from offset_common.errors import OffsetError
from offset_common.identity import encode_key
from tests.end_to_end.relay_process import RelayProcess, write_identity
from tests.examples.programs import (
    LOCALHOST,
    PATIENCE,
    Setting,
    echo,
    exchange,
    reach,
    server,
    wait_for_reset,
)


def test_a_target_that_does_not_answer_resets_the_connection_and_is_named(setting: Setting) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOCALHOST, 0))  # bound, and not listening: refused
        serving = setting.serve(nobody.getsockname()[1])
        with reach(setting.dial()[1]) as sock:
            wait_for_reset(sock)
        serving.wait_for(r"connection 1: failed: no TCP connection to 127\.0\.0\.1:\d+: Connection refused")


def test_a_server_that_resets_its_connection_resets_ours(setting: Setting) -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    with server(reset) as target, reach(setting.both(target)) as sock:
        sock.sendall(b"?")
        wait_for_reset(sock)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("which", ["serve", "dial"])
def test_half_a_file_does_not_look_like_a_whole_one(setting: Setting, which: str, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, port = setting.dial()
        with reach(port) as sock:
            assert exchange(sock, b"the first half") == b"the first half"
            status = (serving if which == "serve" else dialing).stop(number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            wait_for_reset(sock)


def test_serve_comes_back_by_itself_when_the_relay_does(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    first = RelayProcess(identity)
    setting = Setting(tmp_path, first)
    with server(echo) as target:
        try:
            serving = setting.serve(target)
            _, port = setting.dial()
            with reach(port) as sock:
                assert exchange(sock, b"before") == b"before"
                first.stop(signal.SIGKILL)
                wait_for_reset(sock)
            serving.wait_for("^not listening: .*; retrying in 0")
            with reach(port) as waiting:  # while there is no relay
                second = RelayProcess(identity, f"{LOCALHOST}:{first.port}")
                try:
                    assert exchange(waiting, b"after") == b"after"
                    serving.wait_for("^forward ready: ", count=2)
                finally:
                    setting.end()
                    second.end()
        finally:
            setting.end()


def test_serve_and_dial_may_be_there_before_the_relay(tmp_path: Path) -> None:
    identity = write_identity(tmp_path)
    relay = RelayProcess(identity)
    relay.end()
    setting = Setting(tmp_path, relay)
    with server(echo) as target, contextlib.ExitStack() as ends:
        ends.callback(setting.end)
        allowed = encode_key(setting.laptop.public_key)
        serving = setting.start("serve", "home", "--to", f"{LOCALHOST}:{target}", "--allow", allowed)
        serving.wait_for("^not listening: no TCP connection to .*: Connection refused; retrying in ")
        dialing, port = setting.dial()
        sock = ends.enter_context(reach(port))
        dialing.wait_for("connection 1: not connected: no TCP connection to .*; retrying for 30 s")
        again = RelayProcess(identity, f"{LOCALHOST}:{relay.port}")
        ends.callback(again.end)
        ends.callback(setting.end)
        assert exchange(sock, b"at last") == b"at last"


def test_a_connection_does_not_wait_for_a_relay_longer_than_told(tmp_path: Path) -> None:
    relay = RelayProcess(write_identity(tmp_path))
    relay.end()
    setting = Setting(tmp_path, relay)
    try:
        dialing, port = setting.dial("--wait", "1")
        with reach(port) as sock:
            wait_for_reset(sock)
        dialing.wait_for("connection 1: failed: no TCP connection to ")
    finally:
        setting.end()


END_MESSAGE = bytes([END])
WRONG = {
    "empty": [b""],
    "of another kind": [bytes([2])],
    "an end with data": [END_MESSAGE + b"more"],
    "a second end": [END_MESSAGE, END_MESSAGE],
    "data after the end": [END_MESSAGE, bytes([DATA]) + b"x"],
}


@pytest.mark.parametrize("messages", WRONG.values(), ids=list(WRONG))
def test_a_message_that_forward_does_not_send_cuts_the_connection_off(
    setting: Setting, messages: list[bytes]
) -> None:
    with listen(setting.ticket, setting.home) as listener, ThreadPoolExecutor() as pool:
        dialing, port = setting.dial()
        with reach(port):
            accepting = pool.submit(lambda: listener.receive(PATIENCE).accept(end_to_end=True))
            with accepting.result(PATIENCE) as tunnel:
                with contextlib.suppress(OffsetError):
                    for message in messages:
                        tunnel.send(message)
                dialing.wait_for("connection 1: cut off: the peer sent an invalid message")
                with pytest.raises(OffsetError):
                    tunnel.receive(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_sides_in_order(setting: Setting, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, _ = setting.dial()
        assert dialing.stop(number) == serving.stop(number) == 0
        assert all(line.startswith("forward ready: ") for line in serving.lines + dialing.lines)


def test_a_signal_ends_serve_while_it_waits_for_a_relay(tmp_path: Path) -> None:
    relay = RelayProcess(write_identity(tmp_path))
    relay.end()
    setting = Setting(tmp_path, relay)
    serving = setting.start(
        "serve", "home", "--to", "127.0.0.1:9", "--allow", encode_key(setting.laptop.public_key)
    )
    serving.wait_for("retrying in", count=2)
    assert serving.stop() == 0


def test_the_delays_double_up_to_a_cap_and_chance_takes_up_to_half() -> None:
    longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    long_delays = [longest.next() for _ in range(12)]
    assert long_delays[:4] == [FIRST_DELAY * factor for factor in (1, 2, 4, 8)]
    assert long_delays[-3:] == [MAX_DELAY] * 3
    assert [shortest.next() * 2 for _ in range(12)] == long_delays
