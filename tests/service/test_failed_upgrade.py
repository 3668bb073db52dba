"""Upgrades that fail leave the relay as it was; signals have their documented effect at any time."""

from __future__ import annotations

import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from offset_common.errors import UsageError
from offset_common.service.predecessor import VARIABLE, find_predecessor
from tests.commands import run_script
from tests.service.conftest import StartUpgrading
from tests.service.relays import SERVES, STARTS, UpgradingRelay, ends
from tests.support.fault_injection import inject
from tests.support.node import Node, assert_joined, assert_listening, make_tunnel, meet
from tests.support.process import PATIENCE, wait_until
from tests.support.relay_process import LOCALHOST, write_identity


@contextlib.contextmanager
def undisturbed(relay: UpgradingRelay) -> Iterator[None]:
    """Check that a tunnel and a listener live on through the block, and no process is left behind."""
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        listener = callee.listen()
        near, far = make_tunnel(caller, callee, listener)
        before = (relay.pid, relay.children)
        yield
        assert_joined(near, far)
        assert_listening(caller, callee, listener)
        assert (relay.pid, relay.children) == before


@contextlib.contextmanager
def hanging_successors(relay: UpgradingRelay, directory: Path) -> Iterator[IO[bytes]]:
    """Make a successor of a relay hang when it reads the identity, until the yielded pipe is closed."""
    relay.identity.rename(directory / "kept")
    os.mkfifo(relay.identity)
    with relay.identity.open("r+b", buffering=0) as pipe:
        pipe.write(b" ")  # reading a pipe that stays empty fails after a few seconds
        yield pipe
    relay.identity.unlink()
    (directory / "kept").rename(relay.identity)


def test_an_unreadable_identity_keeps_the_old_relay(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading()
    with undisturbed(relay):
        content = relay.identity.read_bytes()
        relay.identity.write_bytes(b"{")
        held = (relay.descriptors, relay.threads)
        for count in (1, 2, 3):
            assert "the new process ended before it was ready; it logs why" in relay.fail_to_upgrade()
            assert relay.count_lines(f"^strelay: {relay.identity}: ") == count
        assert (relay.descriptors, relay.threads) == held
    relay.identity.write_bytes(content)
    with ends(relay.upgrade()):
        pass


def test_a_program_that_does_not_run_keeps_the_old_relay(
    start_upgrading: StartUpgrading, tmp_path: Path
) -> None:
    relay = start_upgrading(prefix=["env", f"PYTHONPATH={tmp_path}"])
    with undisturbed(relay):
        (tmp_path / "docopt.py").write_text("this is not Python")
        assert "the new process ended with status 1 before it was ready" in relay.fail_to_upgrade()
    (tmp_path / "docopt.py").unlink()
    with ends(relay.upgrade()):
        pass


def test_a_new_process_that_hangs_is_killed(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    relay = start_upgrading(prefix=inject("offset_common.service.successor:READY_TIMEOUT=1.0"))
    with undisturbed(relay), hanging_successors(relay, tmp_path):
        assert "the new process was not ready within 1 s" in relay.fail_to_upgrade()
        wait_until(lambda: processes_of(relay.identity) == [relay.pid], "the end of the new process")


def test_stop_during_an_upgrade_stops_both(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    relay = start_upgrading()
    with hanging_successors(relay, tmp_path):
        relay.signal(signal.SIGUSR2)
        wait_until(lambda: len(processes_of(relay.identity)) == 2, "a new process")
        assert relay.stop() == 0
        wait_until(lambda: processes_of(relay.identity) == [], "the end of all processes")
    assert relay.count_lines('^warning: not upgraded: reason="the relay is stopping"') == 1


def test_death_of_the_old_relay_ends_the_new_one(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    relay = start_upgrading()
    with hanging_successors(relay, tmp_path) as pipe:
        relay.signal(signal.SIGUSR2)
        wait_until(lambda: not select.select([pipe], [], [], 0)[0], "a new process that reads the identity")
        relay.process.kill()
        relay.process.wait(PATIENCE)
        pipe.write((tmp_path / "kept").read_bytes())
        pipe.close()
        wait_until(lambda: processes_of(relay.identity) == [], "the end of all processes")
    assert relay.count_lines("^strelay: the relay that started this one has ended or does not answer") == 1


def test_a_second_upgrade_waits_for_the_first(start_upgrading: StartUpgrading, tmp_path: Path) -> None:
    relay = start_upgrading()
    with hanging_successors(relay, tmp_path):
        relay.signal(signal.SIGUSR2)
        relay.wait_for_line(STARTS)
        relay.signal(signal.SIGUSR2)
        relay.wait_for_line('^warning: not upgraded: reason="an upgrade is under way"')
        assert relay.stop() == 0


def test_a_stopping_relay_is_not_upgraded(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading("--drain", "3600")
    with Node(relay.endpoint()) as caller, Node(relay.endpoint()) as callee:
        near, far = make_tunnel(caller, callee, callee.listen())
        relay.signal(signal.SIGTERM)
        relay.wait_for_line("^stopping")
        relay.signal(signal.SIGUSR2)
        relay.wait_for_line('^warning: not upgraded: reason="the relay is stopping, or has handed over"')
        assert_joined(near, far)


def test_a_storm_of_upgrades_leaves_one_relay(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading()
    until = time.monotonic() + PATIENCE
    while relay.count_lines(SERVES) < 2:
        assert time.monotonic() < until, "no new process becomes ready"
        with contextlib.suppress(ProcessLookupError):
            for number in (signal.SIGUSR2, signal.SIGHUP, signal.SIGUSR1):
                relay.signal(number)
        time.sleep(0.001)
    wait_until(lambda: processes_of(relay.identity) == [relay.pid], "one relay")
    meet(relay.endpoint())
    assert relay.failures == []


def test_upgrade_without_a_free_descriptor_does_no_harm(start_upgrading: StartUpgrading) -> None:
    relay = start_upgrading()
    with undisturbed(relay):
        limits = resource.prlimit(relay.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (relay.descriptors, limits[1]))
        assert "no new process: Too many open files" in relay.fail_to_upgrade()
        resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, limits)
    with ends(relay.upgrade()):
        pass


def test_process_one_of_a_container_is_not_upgraded(tmp_path: Path) -> None:
    unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("needs unshare, and the right to use it")
    relay = UpgradingRelay(write_identity(tmp_path), prefix=unshare)
    try:
        (inside,) = relay.children
        os.kill(inside, signal.SIGUSR2)
        relay.wait_for_line("^warning: not upgraded: .*process 1 of a container")
        meet(relay.endpoint())
    finally:
        relay.kill()


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        "null",
        "{",
        "[" * 100_000,
        '{"channel": 99, "sockets": []}',
        '{"channel": 0, "sockets": []}',
        f'{{"channel": {10**30}, "sockets": []}}',
        '{"channel": "x", "sockets": 3}',
        '{"channel": -1, "sockets": [[1, 2, 3]]}',
    ],
)
def test_a_variable_set_by_hand_is_refused(value: str) -> None:
    environment = {VARIABLE: value}
    with pytest.raises(UsageError, match=f"^{VARIABLE} is for relays that start their successor; unset it$"):
        find_predecessor(environment)
    assert environment == {}


def test_a_variable_set_by_hand_ends_the_start(tmp_path: Path) -> None:
    line = ["-i", write_identity(tmp_path), "-l", f"{LOCALHOST}:0"]
    done = run_script("strelay.py", *line, **{VARIABLE: "1"})
    assert done == (2, "", f"strelay: {VARIABLE} is for relays that start their successor; unset it\n")


def test_an_address_that_is_taken_keeps_the_old_relay(
    start_upgrading: StartUpgrading, tmp_path: Path
) -> None:
    pytest.importorskip("tomllib")
    path = tmp_path / "relay.toml"
    path.write_text("")
    relay = start_upgrading("--config", str(path))
    with undisturbed(relay), socket.create_server((LOCALHOST, 0)) as taken:
        path.write_text(f'status = "{LOCALHOST}:{taken.getsockname()[1]}"\n')
        assert "ended before it was ready" in relay.fail_to_upgrade()
        assert relay.count_lines("^strelay: --[a-z-]*: cannot listen on .*another program has this port") == 1


def processes_of(identity: Path) -> list[int]:
    """Return the ids of the relays that have an identity file on their command line."""
    found = []
    for directory in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if directory.name.isdigit() and str(identity).encode() in (directory / "cmdline").read_bytes():
                found.append(int(directory.name))
    return found
