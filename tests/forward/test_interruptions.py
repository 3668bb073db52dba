"""stforward: networks, relays and processes that fail and return; signals."""

from __future__ import annotations

import hashlib
import os
import queue
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.client import Server, Tunnel
from offset_common.client.backoff import Backoff
from offset_common.forward import reach as connecting
from offset_common.forward.messages import Welcome
from tests.forward.in_process import BothSides
from tests.forward.programs import (
    Setting,
    echo,
    exchange,
    reach,
    read_all,
    read_exactly,
    server,
    wait_for_reset,
)
from tests.support.process import PATIENCE
from tests.support.relay_process import LOCALHOST, RelayProcess, StartRelay


@pytest.fixture
def lone_setting(start_relay: StartRelay, tmp_path: Path) -> Iterator[tuple[Setting, RelayProcess]]:
    """The files and programs of one test, and a relay of its own."""
    relay = start_relay()
    setting = Setting(tmp_path, relay)
    yield setting, relay
    setting.close()


LoneSetting = tuple[Setting, RelayProcess]


def restart(relay: RelayProcess, start_relay: StartRelay) -> None:
    """Start a relay with the address and key of one that has ended."""
    start_relay(address=f"{LOCALHOST}:{relay.port}", identity=relay.identity)


def test_no_byte_is_lost_or_doubled_by_an_interruption(
    lone_setting: LoneSetting, start_relay: StartRelay
) -> None:
    setting, relay = lone_setting
    content = os.urandom(20_000_000)
    under_way = threading.Event()

    def answer(sock: socket.socket) -> None:
        sock.settimeout(2 * PATIENCE)
        digest = hashlib.sha256()
        received = 0
        while data := sock.recv(65536):
            digest.update(data)
            received += len(data)
            if received > 2_000_000:
                under_way.set()
        sock.sendall(digest.digest())

    with server(answer) as target, reach(setting.both(target)) as sock:
        sock.settimeout(2 * PATIENCE)

        def send() -> None:
            sock.sendall(content)
            sock.shutdown(socket.SHUT_WR)

        sending = threading.Thread(target=send, daemon=True)
        sending.start()
        assert under_way.wait(PATIENCE)
        relay.stop(signal.SIGKILL)
        restart(relay, start_relay)
        assert read_all(sock) == hashlib.sha256(content).digest()
        sending.join(PATIENCE)


def test_answer_is_whole_although_its_stream_had_ended(
    lone_setting: LoneSetting, start_relay: StartRelay
) -> None:
    setting, relay = lone_setting
    asked, go = threading.Event(), threading.Event()
    content = os.urandom(900_000)

    def answer(sock: socket.socket) -> None:
        read_all(sock)
        asked.set()
        assert go.wait(PATIENCE)
        sock.sendall(content)

    with server(answer) as target:
        sharing = setting.share(str(target))
        program, port = setting.reach()
        with reach(port) as sock:
            sock.settimeout(2 * PATIENCE)
            sock.shutdown(socket.SHUT_WR)
            assert asked.wait(PATIENCE)
            program.process.send_signal(signal.SIGSTOP)  # so the answer stays in the relay
            go.set()
            sharing.wait_for_line("^connection 1: ended")
            relay.stop(signal.SIGKILL)
            sharing.wait_for_line("is disconnected; its connections wait for ")
            program.process.send_signal(signal.SIGCONT)
            restart(relay, start_relay)
            assert read_all(sock) == content


def test_stdio_ends_when_all_of_its_input_has_arrived(
    lone_setting: LoneSetting, start_relay: StartRelay
) -> None:
    setting, relay = lone_setting
    arrived: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(2 * PATIENCE)
        arrived.append(read_all(sock))

    with server(answer) as target:
        sharing = setting.share(str(target))
        command = setting.laptop.command("to", str(setting.code), "--stdio")
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
            assert program.stdin is not None and program.stdout is not None
            assert program.stdout.read() == b""  # connected: the end of the service has arrived
            relay.stop(signal.SIGKILL)
            sharing.wait_for_line("is disconnected; its connections wait for ")
            program.stdin.write(b"late")
            program.stdin.close()
            with pytest.raises(subprocess.TimeoutExpired):
                program.wait(1)
            restart(relay, start_relay)
            assert program.wait(2 * PATIENCE) == 0
            sharing.wait_for_line("^connection 1: ended")
    assert arrived == [b"late"]


def test_both_sides_may_start_before_the_relay(lone_setting: LoneSetting, start_relay: StartRelay) -> None:
    setting, relay = lone_setting
    relay.stop()
    setting.let_in(setting.laptop)
    with server(echo) as target:
        sharing = setting.start_share(str(target))
        sharing.wait_for_line("^not reachable: no TCP connection to .*: Connection refused; trying again in ")
        program = setting.to("0")
        program.wait_for_line("^not connected: no TCP connection to ")
        line = program.wait_for_line("^listening on ")
        with reach(int(line.split()[-1])) as sock:
            restart(relay, start_relay)
            assert exchange(sock, b"at last") == b"at last"


def test_wait_option_limits_the_wait_of_a_new_connection(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    relay.stop()
    program = setting.to("0", "--wait", "1")
    line = program.wait_for_line("^listening on ")
    with reach(int(line.split()[-1])) as sock:
        wait_for_reset(sock)
    program.wait_for_line("^connection 1: cut off: no TCP connection to ")


def test_keep_option_limits_the_wait_of_an_open_connection(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    with server(echo) as target:
        setting.share(str(target), "--keep", "1")
        _, port = setting.reach("0", "--keep", "1")
        with reach(port) as sock:
            assert exchange(sock, b"before") == b"before"
            relay.stop(signal.SIGKILL)
            wait_for_reset(sock)
        for program in setting.programs:
            program.wait_for_line("^connection 1: cut off: .* did not return in time")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("which", ["share", "to"])
def test_truncated_stream_ends_with_a_reset(setting: Setting, which: str, number: int) -> None:
    ends: list[bytes] = []

    def answer(sock: socket.socket) -> None:
        echo(sock)
        ends.append(b"in order")

    with server(answer) as target:
        sharing = setting.share(str(target))
        program, port = setting.reach("0", "--keep", "1")
        with reach(port) as sock:
            assert exchange(sock, b"the first half") == b"the first half"
            status = (sharing if which == "share" else program).stop(number)
            assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)
            wait_for_reset(sock)
    assert ends == []


def test_restarted_share_is_found_again(setting: Setting) -> None:
    with server(echo) as target:
        sharing = setting.share(str(target))
        program, port = setting.reach()
        with reach(port) as sock:
            assert exchange(sock, b"before") == b"before"
            sharing.stop(signal.SIGKILL)
            setting.share(str(target))
            wait_for_reset(sock)
        with reach(port) as sock:
            assert exchange(sock, b"after") == b"after"
        program.wait_for_line("^connection 1: cut off: stforward was restarted on ")


def test_connection_during_a_restart_of_share_waits_for_it(setting: Setting) -> None:
    with server(echo) as target:
        sharing = setting.share(str(target))
        program, port = setting.reach()
        sharing.stop(signal.SIGKILL)
        program.wait_for_line("^not connected: ")
        with reach(port) as sock:
            sock.sendall(b"waits")
            setting.share(str(target))
            assert read_exactly(sock, 5) == b"waits"


def test_connections_that_waited_in_vain_reach_no_service(setting: Setting) -> None:
    with server(echo) as target, BothSides(setting, target, wait=0.1).running() as both:
        for _ in range(3):
            sock, reasons = both.connect()
            with sock:
                sock.sendall(b"too early")
                assert reasons.get(timeout=PATIENCE) == "the other side did not answer in time"
        both.in_loop(both.share.start)
        both.in_loop(both.reach.start)
        both.welcomes.get(timeout=PATIENCE)
        sock, _ = both.connect()
        with sock:
            assert exchange(sock, b"in time") == b"in time"
        assert both.display.kinds.count("connection_opened") == 5  # the last one is counted on both sides


def test_delays_grow_while_each_new_tunnel_ends_at_once(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    delays: queue.Queue[float] = queue.Queue()

    class Noted(Backoff):
        def next(self) -> float:
            delays.put(super().next())
            return 0.0

    def welcome_and_leave(tunnel: Tunnel) -> None:
        tunnel.receive(PATIENCE)
        tunnel.send(Welcome(False, 0, "home", ()).encode())

    monkeypatch.setattr(connecting, "Backoff", lambda: Noted(lambda: 1.0))
    server = Server(setting.ticket, setting.home.identity, welcome_and_leave, allow=None)
    serving = threading.Thread(target=server.run)
    serving.start()
    with BothSides(setting, 9).running() as both:
        both.in_loop(both.reach.start)
        for _ in range(4):
            both.welcomes.get(timeout=PATIENCE)
        assert [delays.get(timeout=PATIENCE) for _ in range(3)] == [0.25, 0.5, 1.0]
    server.stop()
    serving.join(PATIENCE)


def test_signal_ends_both_sides_without_a_relay(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    relay.stop()
    sharing, program = setting.start_share("9"), setting.to("0")
    sharing.wait_for_line("trying again")
    program.wait_for_line("trying again")
    assert sharing.stop() == program.stop(signal.SIGINT) == 0


def test_signal_that_the_parent_blocked_ends_stforward(lone_setting: LoneSetting) -> None:
    setting, relay = lone_setting
    relay.stop()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        sharing = setting.start_share("9")
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    sharing.wait_for_line("trying again")
    assert sharing.stop() == 0
