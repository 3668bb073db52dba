"""examples/forward.py: connections that break, relays that go away and come back, signals."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from examples.forwarding.bridge import DATA, END, LINGER_RESET
from offset_common.client import listen
from offset_common.client.backoff import FIRST_DELAY, MAX_DELAY, Backoff
from offset_common.errors import OffsetError
from tests.examples.programs import (
    PATIENCE,
    Setting,
    echo,
    exchange,
    reach,
    server,
    wait_for_reset,
)
from tests.support.relay_process import LOCALHOST, RelayProcess, StartRelay


def test_refusing_target_resets_the_connection(setting: Setting) -> None:
    with socket.socket() as nobody:
        nobody.bind((LOCALHOST, 0))  # bound, and not listening: refused
        serving = setting.serve(nobody.getsockname()[1])
        with reach(setting.dial()[1]) as sock:
            wait_for_reset(sock)
        serving.wait_for_line(
            r"connection 1: failed: no TCP connection to 127\.0\.0\.1:\d+: Connection refused"
        )


def test_server_reset_is_passed_on(setting: Setting) -> None:
    def reset(sock: socket.socket) -> None:
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)

    with server(reset) as target, reach(setting.both(target)) as sock:
        sock.sendall(b"?")
        wait_for_reset(sock)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "stopped"])
@pytest.mark.parametrize("which", ["serve", "dial"])
def test_truncated_stream_ends_with_a_reset(setting: Setting, which: str, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, port = setting.dial()
        with reach(port) as sock:
            assert exchange(sock, b"the first half") == b"the first half"
            status = (serving if which == "serve" else dialing).stop(number)
            assert status == (0 if number == signal.SIGTERM else -signal.SIGKILL)
            wait_for_reset(sock)


def restart(relay: RelayProcess, start_relay: StartRelay) -> None:
    """Start a relay with the address and key of one that has ended."""
    start_relay(address=f"{LOCALHOST}:{relay.port}", identity=relay.identity)


@pytest.fixture
def lone_setting(start_relay: StartRelay, tmp_path: Path) -> Iterator[tuple[Setting, RelayProcess]]:
    """The files and programs of one test, and a relay of its own."""
    relay = start_relay()
    setting = Setting(tmp_path, relay)
    yield setting, relay
    setting.close()


LoneSetting = tuple[Setting, RelayProcess]


def test_serve_reconnects_to_a_restarted_relay(lone_setting: LoneSetting, start_relay: StartRelay) -> None:
    setting, relay = lone_setting
    with server(echo) as target:
        serving = setting.serve(target)
        _, port = setting.dial()
        with reach(port) as sock:
            assert exchange(sock, b"before") == b"before"
            relay.stop(signal.SIGKILL)
            wait_for_reset(sock)
        serving.wait_for_line("^not listening: .*; retrying in 0")
        with reach(port) as waiting:  # while there is no relay
            restart(relay, start_relay)
            assert exchange(waiting, b"after") == b"after"
        serving.wait_for_line("^forward ready: ", count=2)


def test_both_sides_may_start_before_the_relay(lone_setting: LoneSetting, start_relay: StartRelay) -> None:
    setting, relay = lone_setting
    relay.stop()
    with server(echo) as target:
        serving = setting.start_serve(target)
        serving.wait_for_line("^not listening: no TCP connection to .*: Connection refused; retrying in ")
        dialing, port = setting.dial()
        with reach(port) as sock:
            dialing.wait_for_line("connection 1: not connected: no TCP connection to .*; retrying for 30 s")
            restart(relay, start_relay)
            assert exchange(sock, b"at last") == b"at last"


def test_wait_option_limits_the_wait_for_a_relay(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    relay.stop()
    dialing, port = setting.dial("--wait", "1")
    with reach(port) as sock:
        wait_for_reset(sock)
    dialing.wait_for_line("connection 1: failed: no TCP connection to ")


def test_signal_ends_serve_without_a_relay(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    relay.stop()
    serving = setting.start_serve(9)
    serving.wait_for_line("retrying in", count=2)
    assert serving.stop() == 0


END_MESSAGE = bytes([END])
WRONG = {
    "empty": [b""],
    "of another kind": [bytes([2])],
    "an end with data": [END_MESSAGE + b"more"],
    "a second end": [END_MESSAGE, END_MESSAGE],
    "data after the end": [END_MESSAGE, bytes([DATA]) + b"x"],
}


@pytest.mark.parametrize("messages", WRONG.values(), ids=list(WRONG))
def test_invalid_message_ends_the_connection(setting: Setting, messages: list[bytes]) -> None:
    with listen(setting.ticket, setting.home) as listener, ThreadPoolExecutor() as pool:
        dialing, port = setting.dial()
        with reach(port):
            accepting = pool.submit(lambda: listener.receive(PATIENCE).accept(end_to_end=True))
            with accepting.result(PATIENCE) as tunnel:
                with contextlib.suppress(OffsetError):
                    for message in messages:
                        tunnel.send(message)
                dialing.wait_for_line("connection 1: cut off: the peer sent an invalid message")
                with pytest.raises(OffsetError):
                    tunnel.receive(PATIENCE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_both_sides(setting: Setting, number: int) -> None:
    with server(echo) as target:
        serving = setting.serve(target)
        dialing, _ = setting.dial()
        assert dialing.stop(number) == serving.stop(number) == 0
        assert all(line.startswith("forward ready: ") for line in serving.lines + dialing.lines)


def test_delays_double_up_to_a_cap_with_jitter() -> None:
    longest, shortest = Backoff(lambda: 1.0), Backoff(lambda: 0.0)
    long_delays = [longest.next() for _ in range(12)]
    assert long_delays[:4] == [FIRST_DELAY * factor for factor in (1, 2, 4, 8)]
    assert long_delays[-3:] == [MAX_DELAY] * 3
    assert [shortest.next() * 2 for _ in range(12)] == long_delays
