"""The messages of a relay to its service manager, and their times."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from offset_common.relay.log import LOGGER
from offset_common.service.control import STATUS_INTERVAL
from offset_common.service.notifier import Notifier
from tests.service.conftest import StartUpgrading
from tests.service.manager import Manager
from tests.support.node import Node, make_tunnel, meet
from tests.support.process import LoggedProcess, wait_until
from tests.support.relay_process import LOCALHOST, StartRelay, command, write_identity

WATCHDOG = 0.5  # seconds
# Blocks the event loop at SIGHUP, while the threads of the relay continue.
STUCK_AT_RELOAD = """
import sys, time
import strelay
from offset_common.relay.policy import Policy
Policy.reload = lambda policy, done: time.sleep(3600)
sys.exit(strelay.main())
"""


@contextlib.contextmanager
def logged() -> Iterator[list[str]]:
    """Collect the events that are logged in the block."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    try:
        yield lines
    finally:
        LOGGER.removeHandler(handler)


def usec(seconds: float) -> str:
    return str(int(seconds * 1_000_000))


def test_ready_is_sent_once_the_port_is_open(start_relay: StartRelay, manager: Manager) -> None:
    relay = start_relay(prefix=manager.prefix())
    message = manager.next()
    assert message.pid == relay.pid
    assert message.fields["READY"] == "1"
    assert message.fields["STATUS"] == f"listening on {LOCALHOST}:{relay.port}; connections: 0"


def test_an_abstract_socket_is_notified(start_relay: StartRelay) -> None:
    with Manager(f"@offset-relay-{os.getpid()}") as manager:
        start_relay(prefix=manager.prefix())
        manager.wait_for("READY", "1")


def test_reload_begins_and_ends_with_a_message(
    start_relay: StartRelay, manager: Manager, tmp_path: Path
) -> None:
    access = tmp_path / "access.txt"
    access.write_text("")
    relay = start_relay("--access", str(access), prefix=manager.prefix())
    manager.wait_for("READY")
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    relay.process.send_signal(signal.SIGHUP)
    reloading = manager.wait_for("RELOADING", "1")
    assert before <= int(reloading.fields["MONOTONIC_USEC"])
    assert int(reloading.fields["MONOTONIC_USEC"]) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    manager.wait_for("READY", "1")
    relay.wait_for_line("^reloaded")


def test_a_failed_reload_ends_with_a_message_too(
    start_relay: StartRelay, manager: Manager, tmp_path: Path
) -> None:
    access = tmp_path / "access.txt"
    access.write_text("")
    relay = start_relay("--access", str(access), prefix=manager.prefix())
    manager.wait_for("READY")
    access.write_text("nonsense")
    for _ in range(3):
        relay.process.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING")
    manager.wait_for("READY", "1")
    relay.wait_for_line("not reloaded")


def test_stopping_is_sent_before_the_drain(start_relay: StartRelay, manager: Manager) -> None:
    relay = start_relay("--drain", "3600", prefix=manager.prefix())
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        make_tunnel(caller, callee, callee.listen())
        relay.process.send_signal(signal.SIGTERM)
        fields = manager.wait_for("STOPPING", "1").fields
        assert fields["STATUS"].startswith("stopping; connections: ")
        assert int(fields["EXTEND_TIMEOUT_USEC"]) > 3600 * 1_000_000
        assert relay.alive


def test_the_event_loop_sends_watchdog_messages(start_relay: StartRelay, manager: Manager) -> None:
    start_relay(prefix=manager.prefix(WATCHDOG_USEC=usec(WATCHDOG)))
    manager.wait_for("READY")
    start = time.monotonic()
    for _ in range(5):
        manager.wait_for("WATCHDOG", "1")
    assert time.monotonic() - start < 3 * STATUS_INTERVAL, "not more often than without a watchdog"


def test_busy_loop_sends_no_more_watchdog_messages(start_relay: StartRelay, manager: Manager) -> None:
    start = time.monotonic()
    relay = start_relay(prefix=manager.prefix(WATCHDOG_USEC=usec(WATCHDOG)))
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        for _ in range(300):  # each takes a round of the loop
            near.send(b"message")
            far.receive()
            with contextlib.suppress(socket.timeout):
                manager.next(0.001)
    sent = sum("WATCHDOG" in message.fields for message in manager.messages)
    assert sent <= (time.monotonic() - start) / (WATCHDOG / 2) + 1


def test_a_stuck_loop_sends_no_watchdog_message(tmp_path: Path, manager: Manager) -> None:
    program = command(write_identity(tmp_path), f"{LOCALHOST}:0")
    prefix = manager.prefix(WATCHDOG_USEC=usec(WATCHDOG))
    relay = LoggedProcess([*prefix, program[0], "-c", STUCK_AT_RELOAD, *program[2:]])
    try:
        manager.wait_for("WATCHDOG")
        relay.process.send_signal(signal.SIGHUP)
        manager.wait_for("RELOADING")
        with pytest.raises(socket.timeout):
            manager.wait_for("WATCHDOG", seconds=3 * WATCHDOG)
        assert relay.alive
    finally:
        relay.kill()


@pytest.mark.parametrize(
    "variables",
    [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "200000", "WATCHDOG_PID": "1"}],
    ids=["none", "zero", "nonsense", "of another process"],
)
def test_watchdog_is_only_that_of_this_process(variables: dict[str, str]) -> None:
    assert Notifier(variables).watchdog is None
    assert variables == {}


def test_without_a_watchdog_no_message_is_sent_for_it(start_relay: StartRelay, manager: Manager) -> None:
    relay = start_relay(prefix=manager.prefix())
    relay.process.send_signal(signal.SIGHUP)
    manager.wait_for("RELOADING")
    manager.wait_for("READY")
    assert not any("WATCHDOG" in message.fields for message in manager.messages)


@pytest.mark.parametrize(
    "address",
    ["/nowhere/notify", "/dev/null", "@nobody-listens-here", "vsock:2:1", "notify", "/" + "x" * 200],
)
def test_a_wrong_address_is_reported_once(address: str) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": address})
    with logged() as lines:
        notifier.send("READY=1")
        notifier.send("STOPPING=1")
    assert len(lines) == 1
    assert not notifier.enabled


def test_a_wrong_notify_socket_harms_nothing(start_relay: StartRelay) -> None:
    relay = start_relay(prefix=["env", "NOTIFY_SOCKET=/dev/null", "WATCHDOG_USEC=500000"])
    meet(relay.endpoint())
    relay.process.send_signal(signal.SIGHUP)
    relay.wait_for_line("^nothing to reload")
    relay.stop_cleanly()
    assert relay.count_lines("^warning: service manager not notified") == 1


def test_a_manager_that_does_not_read_delays_nothing(start_relay: StartRelay, manager: Manager) -> None:
    relay = start_relay("--drain", "3600", prefix=manager.prefix(WATCHDOG_USEC=usec(WATCHDOG)))
    manager.wait_for("READY")
    manager.fill()
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGTERM):
            relay.process.send_signal(number)
            near.send(b"still here")
            assert far.receive() == b"still here"
        for field in ("RELOADING", "READY", "RELOADING", "READY", "STOPPING"):
            manager.wait_for(field, "1")


def test_a_slow_manager_learns_of_the_new_process(start_upgrading: StartUpgrading, manager: Manager) -> None:
    relay = start_upgrading("--upgrade-drain", "3600", prefix=manager.prefix())
    manager.wait_for("READY")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        make_tunnel(caller, callee, callee.listen())
        manager.fill()
        relay.upgrade()
        assert manager.wait_for("MAINPID").fields["MAINPID"] == str(relay.pid)


def test_workers_do_not_see_the_variables(start_relay: StartRelay, manager: Manager) -> None:
    relay = start_relay("--workers", "2", prefix=manager.prefix(WATCHDOG_USEC="60000000", LISTEN_PID="1"))
    wait_until(lambda: len(relay.workers) == 2, "two workers")
    for pid in relay.workers:
        names = {each.partition(b"=")[0] for each in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")}
        assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_PID"}


def test_the_main_process_follows_an_upgrade(start_upgrading: StartUpgrading, manager: Manager) -> None:
    relay = start_upgrading(prefix=manager.prefix(WATCHDOG_USEC=usec(WATCHDOG)))
    manager.wait_for("WATCHDOG")
    before = relay.upgrade()
    main = manager.wait_for("MAINPID")
    assert main == (before, {**main.fields, "MAINPID": str(relay.pid)})
    # systemd listens only to the main process, so the new process may send nothing before it is that.
    assert {message.pid for message in manager.messages} == {before}
    assert manager.wait_for("READY", "1").pid == relay.pid
    for _ in range(3):
        assert manager.wait_for("WATCHDOG").pid == relay.pid
    relay.signal(signal.SIGTERM)
    assert manager.wait_for("STOPPING").pid == relay.pid
